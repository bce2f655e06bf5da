// Exceptions of the host pass through stream() and leave the model usable.
#include <iostream>
#include <stdexcept>
#include <string>

#include "zonda.hpp"

static int fail(const char* what) {
  std::cerr << "not so: " << what << '\n';
  return 1;
}

int main() {
  const std::string json =
      R"({"temperature":0,"max_tokens":12,"messages":[{"role":"user","content":"Turn on the kitchen light."}]})";
  zonda::engine engine;
  zonda::model model(engine, nullptr);

  try {
    model.stream(json, [](const zonda_event& event) -> bool {
      if (event.kind == ZONDA_EV_DELTA) throw std::runtime_error("enough");
      return true;
    });
    return fail("the exception arrives");
  } catch (const zonda::error&) {
    return fail("the host's own exception arrives");
  } catch (const std::runtime_error& thrown) {
    if (std::string(thrown.what()) != "enough") return fail("the same exception arrives");
  }

  int deltas = 0;
  model.stream(json, [&](const zonda_event& event) {
    deltas += event.kind == ZONDA_EV_DELTA;
    return deltas < 2;
  });
  if (deltas != 2) return fail("false stops the stream");

  std::string streamed;
  std::string reason;
  model.stream(json, [&](const zonda_event& event) {
    streamed += zonda::view(event.text);
    reason = std::string(zonda::view(event.finish_reason));
    return true;
  });
  if (streamed.empty() || reason.empty()) return fail("the model still answers");

  try {
    model.chat("{");
    return fail("bad JSON throws");
  } catch (const zonda::error& refused) {
    if (refused.code() != ZONDA_E_INVALID_ARGUMENT) return fail("its code arrives");
  }
  if (model.detokenize(model.tokenize("a b")) != "a b") return fail("tokens go there and back");
  if (engine.stats().health != 0) return fail("the engine is well");
  return 0;
}
