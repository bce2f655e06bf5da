// zonda.hpp: a header-only C++17 wrapper over zonda.h. Handles free themselves, errors are
// exceptions, and an exception thrown while streaming reaches the caller of stream().
#pragma once
#include "zonda.h"

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace zonda {

class error : public std::runtime_error {
 public:
  error(zonda_status code, const std::string& message)
      : std::runtime_error(message), code_(code) {}
  zonda_status code() const noexcept { return code_; }

 private:
  zonda_status code_;
};

inline std::string_view view(zonda_str text) noexcept { return {text.ptr, text.len}; }

namespace detail {

template <auto Free>
struct freed_by {
  template <class T>
  void operator()(T* handle) const noexcept { Free(handle); }
};
template <class T, auto Free>
using owned = std::unique_ptr<T, freed_by<Free>>;

// Runs a call that takes a zonda_error** and throws what it reports.
template <class Call>
void check(Call&& call) {
  zonda_error* reported = nullptr;
  const zonda_status status = call(&reported);
  const owned<zonda_error, zonda_error_free> guard(reported);
  if (status == ZONDA_OK) return;
  throw error(status, reported ? std::string(view(zonda_error_message(reported)))
                               : std::string(zonda_status_name(status)));
}

inline std::string take(zonda_buffer* buffer) {
  const owned<zonda_buffer, zonda_buffer_free> guard(buffer);
  return std::string(view(zonda_buffer_data(buffer)));
}

}  // namespace detail

class engine {
 public:
  explicit engine(const char* config = nullptr) {
    zonda_engine_params params;
    zonda_engine_params_init(&params, sizeof params);
    params.config_path = config;
    create(params);
  }
  explicit engine(const zonda_engine_params& params) { create(params); }

  zonda_engine* get() const noexcept { return handle_.get(); }

  zonda_stats stats() const {
    zonda_stats stats{};
    stats.struct_size = sizeof stats;
    detail::check([&](zonda_error**) { return zonda_engine_stats(get(), &stats); });
    return stats;
  }

 private:
  void create(const zonda_engine_params& params) {
    zonda_engine* made = nullptr;
    detail::check([&](zonda_error** e) { return zonda_engine_create(&params, &made, e); });
    handle_.reset(made);
  }
  detail::owned<zonda_engine, zonda_engine_free> handle_;
};

// Declare it behind its engine, so that it is freed first.
class model {
 public:
  model(engine& owner, const char* path) {
    zonda_model_params params;
    zonda_model_params_init(&params, sizeof params);
    load(owner, path, params);
  }
  model(engine& owner, const char* path, const zonda_model_params& params) {
    load(owner, path, params);
  }

  zonda_model* get() const noexcept { return handle_.get(); }

  // The whole answer: a chat.completion object.
  std::string chat(std::string_view json) {
    zonda_buffer* answer = nullptr;
    detail::check([&](zonda_error** e) {
      return zonda_chat(get(), json.data(), json.size(), nullptr, &answer, e);
    });
    return detail::take(answer);
  }

  // Calls `each` with every event, on a thread of the library; returns behind the last one.
  // `each` returns false to stop. What it throws cancels the request and is thrown here.
  void stream(std::string_view json, const std::function<bool(const zonda_event&)>& each) {
    struct carried {
      const std::function<bool(const zonda_event&)>* each;
      std::exception_ptr thrown;
      std::string failure;
    } state{&each, nullptr, {}};
    zonda_request_params params;
    zonda_request_params_init(&params, sizeof params);
    params.event_user_data = &state;
    params.event_fn = [](const zonda_event* event, void* user_data) noexcept -> int32_t {
      auto* to = static_cast<carried*>(user_data);
      try {
        if (event->kind == ZONDA_EV_ERROR) to->failure = std::string(view(event->json));
        return (*to->each)(*event) ? 0 : 1;
      } catch (...) {
        to->thrown = std::current_exception();
        return 1;
      }
    };
    zonda_request* started = nullptr;
    detail::check([&](zonda_error** e) {
      return zonda_chat_start(get(), json.data(), json.size(), &params, &started, e);
    });
    const detail::owned<zonda_request, zonda_request_free> guard(started);
    const zonda_status end = zonda_request_wait(started, -1);
    if (state.thrown) std::rethrow_exception(state.thrown);
    if (end != ZONDA_OK && end != ZONDA_E_CANCELLED) {
      throw error(end, state.failure.empty() ? zonda_status_name(end) : state.failure);
    }
  }

  std::vector<std::uint32_t> tokenize(std::string_view text) const {
    std::size_t count = 0;
    detail::check([&](zonda_error** e) {
      return zonda_tokenize(get(), text.data(), text.size(), 0, nullptr, 0, &count, e);
    });
    std::vector<std::uint32_t> tokens(count);
    detail::check([&](zonda_error** e) {
      return zonda_tokenize(get(), text.data(), text.size(), 0, tokens.data(), tokens.size(),
                            &count, e);
    });
    return tokens;
  }

  std::string detokenize(const std::vector<std::uint32_t>& tokens) const {
    std::size_t bytes = 0;
    detail::check([&](zonda_error** e) {
      return zonda_detokenize(get(), tokens.data(), tokens.size(), nullptr, 0, &bytes, e);
    });
    std::string text(bytes, '\0');
    detail::check([&](zonda_error** e) {
      return zonda_detokenize(get(), tokens.data(), tokens.size(), text.data(), text.size(),
                              &bytes, e);
    });
    return text;
  }

  // The card and what the files say, as JSON.
  std::string info() const {
    zonda_buffer* card = nullptr;
    detail::check([&](zonda_error** e) { return zonda_model_info_json(get(), &card, e); });
    return detail::take(card);
  }

 private:
  void load(engine& owner, const char* path, const zonda_model_params& params) {
    zonda_model* made = nullptr;
    detail::check([&](zonda_error** e) {
      return zonda_model_load(owner.get(), path, &params, &made, e);
    });
    handle_.reset(made);
  }
  detail::owned<zonda_model, zonda_model_free> handle_;
};

}  // namespace zonda
