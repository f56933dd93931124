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
#include <string.h>

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

/* A state or another input that stands for itself: one row of zeros, but for "no penalty" and "no stop token". */
static OrtValue *neutral(OrtSession *session, size_t index, const char *name) {
  OrtTypeInfo *info;
  const OrtTensorTypeAndShapeInfo *shape;
  ONNXTensorElementDataType type;
  size_t rank, size = 1;
  int64_t dims[8];
  check(ort->SessionGetInputTypeInfo(session, index, &info));
  check(ort->CastTypeInfoToTensorInfo(info, &shape));
  check(ort->GetTensorElementType(shape, &type));
  check(ort->GetDimensionsCount(shape, &rank));
  if (rank > 8) exit(2);
  check(ort->GetDimensions(shape, dims, rank));
  for (size_t i = 0; i < rank; i++) {
    if (dims[i] < 0) dims[i] = 1; /* the batch */
    size *= (size_t)dims[i];
  }
  ort->ReleaseTypeInfo(info);
  void *data = calloc(size, 8);
  if (data == NULL) exit(2);
  if (strcmp(name, "repetition_penalty") == 0) *(float *)data = 1.0f;
  if (strcmp(name, "stop_token") == 0) *(int64_t *)data = -1;
  size_t width = type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL ? 1 : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4 : 8;
  return tensor(data, size * width, dims, rank, type);
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
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "recurlm", &environment));
  check(ort->CreateSessionOptions(&options));
  check(ort->SetIntraOpNumThreads(options, 1));
  check(ort->CreateSession(environment, argv[1], options, &session));

  const int64_t one[] = {1}, prompt_shape[] = {1, length}, uniform_shape[] = {1, count};
  const ONNXTensorElementDataType int64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, fp32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  const char *names[64] = {"prompt", "prompt_length", "max_new_tokens", "temperature", "top_k", "top_p", "uniform"};
  const OrtValue *inputs[64] = {
      tensor(prompt, (size_t)length * sizeof *prompt, prompt_shape, 2, int64),
      tensor(&length, sizeof length, one, 1, int64),
      tensor(&count, sizeof count, NULL, 0, int64), /* a scalar */
      tensor(&temperature, sizeof temperature, one, 1, fp32),
      tensor(&top_k, sizeof top_k, one, 1, int64),
      tensor(&top_p, sizeof top_p, one, 1, fp32),
      tensor(random, (size_t)count * sizeof *random, uniform_shape, 2, fp32),
  };
  size_t given = 7, all;
  OrtAllocator *allocator;
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  check(ort->SessionGetInputCount(session, &all));
  for (size_t i = 0; i < all; i++) {
    char *name;
    int known = 0;
    check(ort->SessionGetInputName(session, i, allocator, &name));
    for (size_t j = 0; j < 7; j++) known |= strcmp(name, names[j]) == 0;
    if (known) continue;
    if (given == 64) return 2;
    names[given] = name;
    inputs[given++] = neutral(session, i, name);
  }
  const char *results[] = {"tokens"};
  OrtValue *outputs[] = {NULL};
  check(ort->Run(session, NULL, names, inputs, given, results, 1, outputs));

  int64_t *tokens;
  check(ort->GetTensorMutableData(outputs[0], (void **)&tokens));
  for (int64_t i = 0; i < count && tokens[i] != prompt[0]; i++) printf("%" PRId64 " ", tokens[i]); /* <bos> ends it */
  printf("\n");
  return 0; /* which frees everything */
}
