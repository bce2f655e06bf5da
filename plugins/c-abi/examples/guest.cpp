// guest MODEL_PATH
//
// A clock for the model, a conversation, and a request that is pulled. "-" in place of the path takes
// the model that the library carries. C++17.
#include <ctime>
#include <iostream>
#include <string>
#include <string_view>

#include "zonda.hpp"

static std::string ask(std::string_view text) {
  return R"({"temperature":0,"max_tokens":64,"messages":[{"role":"user","content":")" +
         std::string(text) + R"("}]})";
}

static std::string clock_json() {
  return R"({"type":"function","function":{"name":"clock",)"
         R"("description":"Tells the current date, time and day of the week.",)"
         R"("parameters":{"type":"object","properties":{"offset":{"type":"string",)"
         R"("description":"Distance of the local time from UTC, such as +02:00. )"
         R"(Without it, the answer is in UTC."}},"required":[]}}})";
}

static std::string now(std::string_view /*arguments*/) {
  char text[128];
  const std::time_t seconds = std::time(nullptr);
  const std::size_t length =
      std::strftime(text, sizeof text,
                    R"({"time":"%Y-%m-%dT%H:%M:%SZ","weekday":"%A"})",
                    std::gmtime(&seconds));
  return std::string(text, length);
}

// Prints the text of a pulled request.
static void print(zonda::request request) {
  const zonda_event* event = nullptr;
  while (request.next(event) && event != nullptr) std::cout << zonda::view(event->text);
  std::cout << '\n';
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: guest MODEL_PATH\n";
    return 2;
  }
  try {
    zonda::engine engine;
    const zonda::tool clock(engine, "clock", clock_json(), now);
    const bool carried = std::string_view(argv[1]) == "-";
    zonda::model model(engine, carried ? nullptr : argv[1]);
    print(model.start(ask("What time is it?")));
    zonda::session session(model);
    print(model.start(ask("Turn on the kitchen light."), session));
    session.reset();
    std::cerr << engine.metrics();
  } catch (const zonda::error& failure) {
    std::cerr << "guest: " << zonda_status_name(failure.code()) << ": " << failure.what() << '\n';
    return 1;
  }
}
