# MLflow's server with the drivers of PostgreSQL and S3, in the versions of requirements.lock and of the extra `team`.
FROM python:3.11-slim
RUN pip install --no-cache-dir mlflow==3.17.2 psycopg2-binary==2.9.13 boto3==1.43.117
RUN useradd --create-home mlflow
USER mlflow
