// chat MODEL_PATH "prompt" [max_tokens]
//
// "-" in place of the path takes the model that the library carries.
// Prints the answer's text, and nothing else, on stdout, as it comes. C++17.
#include <cstdlib>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <string_view>

#include "zonda.hpp"

// A text as JSON has it.
static std::string quoted(std::string_view text) {
  std::ostringstream out;
  out << '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\' || byte < 0x20) {
      out << "\\u" << std::hex << std::setw(4) << std::setfill('0') << unsigned{byte};
    } else {
      out << c;
    }
  }
  out << '"';
  return out.str();
}

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: chat MODEL_PATH PROMPT [MAX_TOKENS]\n";
    return 2;
  }
  try {
    zonda::engine engine;
    const bool carried = std::string_view(argv[1]) == "-";
    zonda::model model(engine, carried ? nullptr : argv[1]);
    const unsigned long max_tokens = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 128;
    const std::string json = "{\"temperature\":0,\"max_tokens\":" + std::to_string(max_tokens) +
                             ",\"messages\":[{\"role\":\"user\",\"content\":" + quoted(argv[2]) + "}]}";
    model.stream(json, [](const zonda_event& event) {
      std::cout << zonda::view(event.text) << std::flush;
      return true;
    });
    std::cout << '\n';
  } catch (const zonda::error& failure) {
    std::cerr << "chat: " << zonda_status_name(failure.code()) << ": " << failure.what() << '\n';
    return 1;
  }
}
