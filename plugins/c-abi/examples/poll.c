/* poll MODEL_PATH PROMPT...
 *
 * Asks all prompts at once and reads the answers in one poll loop, on one thread. "-" in place of
 * the path takes the model that the library carries. Prints each answer on a line of its own, in
 * order of the prompts. C99, POSIX.
 */
#define _POSIX_C_SOURCE 200809L
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zonda.h"

#define PROMPTS_MAX 16

struct answer {
  zonda_request *request;
  char text[4096];
  size_t length;
};

static int failed(const char *what, zonda_error *error) {
  zonda_str message = zonda_error_message(error);
  fprintf(stderr, "poll: %s: %.*s\n", what, (int)message.len, message.ptr);
  zonda_error_free(error);
  return 1;
}

/* Starts one request. The prompt must need no escaping: a program that has a JSON library uses it. */
static int ask(zonda_model *model, const char *prompt, struct answer *answer) {
  char json[2048];
  zonda_error *error = NULL;
  int length = snprintf(json, sizeof json,
                        "{\"temperature\":0,\"max_tokens\":64,"
                        "\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}",
                        prompt);
  if (length < 0 || (size_t)length >= sizeof json || strpbrk(prompt, "\"\\\n") != NULL) {
    fprintf(stderr, "poll: the prompt is too long, or has a quote, a backslash or a line end\n");
    return 1;
  }
  if (zonda_chat_start(model, json, (size_t)length, NULL, &answer->request, &error) != ZONDA_OK) {
    return failed("chat_start", error);
  }
  return 0;
}

/* Takes what lies there, without waiting. Returns 1 when nothing follows. */
static int take(struct answer *answer) {
  const zonda_event *event = NULL;
  while (zonda_request_next(answer->request, 0, &event, NULL) == ZONDA_OK) {
    if (event == NULL) return 1;
    if (event->kind == ZONDA_EV_DELTA && event->text.len < sizeof answer->text - answer->length) {
      memcpy(answer->text + answer->length, event->text.ptr, event->text.len);
      answer->length += event->text.len;
    } else if (event->kind == ZONDA_EV_ERROR) {
      fprintf(stderr, "poll: %.*s\n", (int)event->json.len, event->json.ptr);
    }
  }
  return 0;
}

/* Reads all answers. */
static int serve(struct answer *answers, int count) {
  struct pollfd polled[PROMPTS_MAX];
  int open = count, i;
  for (i = 0; i < count; i++) {
    polled[i].fd = zonda_request_fd(answers[i].request);
    polled[i].events = POLLIN;
    if (polled[i].fd < 0) {
      fprintf(stderr, "poll: no descriptor\n");
      return 1;
    }
  }
  while (open > 0) {
    if (poll(polled, (nfds_t)count, 60000) <= 0) {
      fprintf(stderr, "poll: nothing came\n");
      return 1;
    }
    for (i = 0; i < count; i++) {
      if (polled[i].revents != 0 && take(&answers[i])) {
        polled[i].fd = -1; /* poll passes over it */
        open--;
      }
    }
  }
  for (i = 0; i < count; i++) printf("%.*s\n", (int)answers[i].length, answers[i].text);
  return 0;
}

int main(int argc, char **argv) {
  static struct answer answers[PROMPTS_MAX];
  zonda_engine *engine = NULL;
  zonda_model *model = NULL;
  zonda_error *error = NULL;
  int count = argc - 2, code = 0, i;
  if (count < 1 || count > PROMPTS_MAX) {
    fprintf(stderr, "usage: poll MODEL_PATH PROMPT... (at most %d)\n", PROMPTS_MAX);
    return 2;
  }
  if (zonda_engine_create(NULL, &engine, &error) != ZONDA_OK) return failed("engine", error);
  if (zonda_model_load(engine, strcmp(argv[1], "-") == 0 ? NULL : argv[1], NULL, &model, &error) !=
      ZONDA_OK) {
    zonda_engine_free(engine);
    return failed("model", error);
  }
  for (i = 0; i < count && code == 0; i++) code = ask(model, argv[2 + i], &answers[i]);
  if (code == 0) code = serve(answers, count);
  for (i = 0; i < count; i++) zonda_request_free(answers[i].request); /* closes the descriptors */
  zonda_model_free(model);
  zonda_engine_free(engine);
  return code;
}
