/* Tokens from a recurlm bundle, in C.
 *
 *   cc generate.c -I ORT/include -L ORT/lib -lonnxruntime -o generate      (ORT: onnxruntime's release for C)
 *   ./generate path/to/bundle/generator.onnx 50 0.8 1 0 45 33
 *
 * Arguments: the graph, the number of tokens, the temperature (0: always the likeliest token), a seed of 1 or more, and
 * the prompt's token ids, <bos> first. It prints the ids that follow. Text to ids and back is the tokenizer's work:
 * tokenizer.json is a file of Hugging Face tokenizers.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "onnxruntime_c_api.h"

static const OrtApi *ort;

static void check(OrtStatus *status) {
  if (status == NULL) return;
  fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
  exit(2);
}

static OrtValue *tensor(void *data, size_t bytes, const int64_t *shape, size_t rank, ONNXTensorElementDataType type) {
  OrtMemoryInfo *memory;
  OrtValue *value;
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(ort->CreateTensorWithDataAsOrtValue(memory, data, bytes, shape, rank, type, &value));
  ort->ReleaseMemoryInfo(memory);
  return value;
}

/* Uniform numbers in [0, 1) of 24 random bits (xorshift64*, Vigna 2016). */
static float uniform(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return (float)((*state * UINT64_C(2685821657736338717)) >> 40) / 16777216.0f;
}

int main(int argc, char **argv) {
  if (argc < 6) {
    fprintf(stderr, "usage: %s GRAPH TOKENS TEMPERATURE SEED BOS [ID ...]\n", argv[0]);
    return 2;
  }
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (ort == NULL) {
    fprintf(stderr, "this onnxruntime is older than its header\n");
    return 2;
  }
  int64_t count = strtoll(argv[2], NULL, 10), length = argc - 5, top_k = 40;
  float temperature = strtof(argv[3], NULL), top_p = 0.95f;
  uint64_t state = strtoull(argv[4], NULL, 10);
  if (count < 1 || state < 1) {
    fprintf(stderr, "TOKENS and SEED are 1 or more\n");
    return 2;
  }
  int64_t *prompt = malloc((size_t)length * sizeof *prompt);
  float *random = malloc((size_t)count * sizeof *random);
  if (prompt == NULL || random == NULL) return 2;
  for (int64_t i = 0; i < length; i++) prompt[i] = strtoll(argv[5 + i], NULL, 10);
  for (int64_t i = 0; i < count; i++) random[i] = uniform(&state);

  OrtEnv *environment;
  OrtSessionOptions *options;
  OrtSession *session;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "recurlm", &environment));
  check(ort->CreateSessionOptions(&options));
  check(ort->SetIntraOpNumThreads(options, 1));
  check(ort->CreateSession(environment, argv[1], options, &session));

  const int64_t one[] = {1}, prompt_shape[] = {1, length}, uniform_shape[] = {1, count};
  const ONNXTensorElementDataType int64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, fp32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  const char *names[] = {"prompt", "prompt_length", "max_new_tokens", "temperature", "top_k", "top_p", "uniform"};
  const OrtValue *inputs[] = {
      tensor(prompt, (size_t)length * sizeof *prompt, prompt_shape, 2, int64),
      tensor(&length, sizeof length, one, 1, int64),
      tensor(&count, sizeof count, NULL, 0, int64), /* a scalar */
      tensor(&temperature, sizeof temperature, one, 1, fp32),
      tensor(&top_k, sizeof top_k, one, 1, int64),
      tensor(&top_p, sizeof top_p, one, 1, fp32),
      tensor(random, (size_t)count * sizeof *random, uniform_shape, 2, fp32),
  };
  const char *results[] = {"tokens"};
  OrtValue *outputs[] = {NULL};
  check(ort->Run(session, NULL, names, inputs, 7, results, 1, outputs));

  int64_t *tokens;
  check(ort->GetTensorMutableData(outputs[0], (void **)&tokens));
  for (int64_t i = 0; i < count && tokens[i] != prompt[0]; i++) printf("%" PRId64 " ", tokens[i]); /* <bos> ends it */
  printf("\n");
  return 0; /* which frees everything */
}
