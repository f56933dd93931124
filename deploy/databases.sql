-- Run by PostgreSQL's image once, when its volume is empty. In a volume that is older, run it by hand.
CREATE DATABASE optuna;
