// zonda.hpp: a header-only C++17 wrapper over zonda.h. Handles free themselves, errors are
// exceptions, an exception thrown while streaming reaches the caller of stream(), and one thrown by
// a tool reaches the model as an error.
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

  // The statistics as OpenMetrics text.
  std::string metrics() const {
    zonda_buffer* text = nullptr;
    detail::check([&](zonda_error** e) { return zonda_engine_metrics_text(get(), &text, e); });
    return detail::take(text);
  }

  // The loaded models, as /v1/models lists them.
  std::string models() const {
    zonda_buffer* list = nullptr;
    detail::check([&](zonda_error** e) { return zonda_model_list_json(get(), &list, e); });
    return detail::take(list);
  }

  // Whether the files of a model are whole; reads all of them.
  std::string verify(const char* path) const {
    zonda_buffer* report = nullptr;
    detail::check([&](zonda_error** e) { return zonda_model_verify(get(), path, &report, e); });
    return detail::take(report);
  }

 private:
  void create(const zonda_engine_params& params) {
    zonda_engine* made = nullptr;
    detail::check([&](zonda_error** e) { return zonda_engine_create(&params, &made, e); });
    handle_.reset(made);
  }
  detail::owned<zonda_engine, zonda_engine_free> handle_;
};

// A function that the model may call, for as long as this lives: declare it behind its engine.
// `run` gets the arguments as JSON and gives the result as JSON, on a thread of the library; what
// it throws is an error that the model reads. Several calls may come at the same time.
class tool {
 public:
  using function = std::function<std::string(std::string_view arguments)>;

  tool(engine& owner, std::string name, const std::string& json, function run)
      : name_(std::move(name)), state_(std::make_unique<state>(state{owner.get(), std::move(run)})) {
    detail::check([&](zonda_error** e) {
      return zonda_tool_register(owner.get(), json.c_str(), &tool::called, state_.get(), e);
    });
  }
  ~tool() {
    if (state_) zonda_tool_unregister(state_->engine, name_.c_str());
  }
  tool(tool&&) noexcept = default;
  tool& operator=(tool&&) = delete;

 private:
  struct state {
    zonda_engine* engine;
    function run;
  };

  static zonda_status called(zonda_str, zonda_str arguments, std::uint64_t call,
                             void* user_data) noexcept {
    auto* to = static_cast<state*>(user_data);
    try {
      const std::string result = to->run(view(arguments));
      return zonda_tool_respond(to->engine, call, result.data(), result.size(), false, nullptr);
    } catch (const std::exception& thrown) {
      std::string why = "\"";
      for (const char c : std::string_view(thrown.what())) {
        const bool plain = static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\';
        why += plain ? c : ' ';
      }
      why += '"';
      return zonda_tool_respond(to->engine, call, why.data(), why.size(), true, nullptr);
    } catch (...) {
      return ZONDA_E_PLUGIN;
    }
  }

  std::string name_;
  std::unique_ptr<state> state_;
};

// A request whose events are pulled. Declare it behind its model.
class request {
 public:
  explicit request(zonda_request* started) noexcept : handle_(started) {}

  zonda_request* get() const noexcept { return handle_.get(); }
  std::string id() const { return std::string(view(zonda_request_id(get()))); }

  // Readable exactly while next(0) would not give "nothing yet"; -1 where there is none. Only poll it.
  int fd() const noexcept { return zonda_request_fd(get()); }

  // Takes the next event, valid until the next call. False: none came within the time. Behind the
  // last one, `event` is null. A negative timeout waits for ever.
  bool next(const zonda_event*& event, std::int32_t timeout_ms = -1) {
    zonda_error* reported = nullptr;
    const zonda_status status = zonda_request_next(get(), timeout_ms, &event, &reported);
    const detail::owned<zonda_error, zonda_error_free> guard(reported);
    if (status == ZONDA_OK) return true;
    if (status == ZONDA_E_WOULD_BLOCK) return false;
    throw error(status, std::string(view(zonda_error_message(reported))));
  }

  void cancel() noexcept { zonda_request_cancel(get()); }
  zonda_status wait(std::int32_t timeout_ms = -1) noexcept {
    return zonda_request_wait(get(), timeout_ms);
  }

 private:
  detail::owned<zonda_request, zonda_request_free> handle_;
};

class session;

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
  std::string chat(std::string_view json) { return chat(json, nullptr); }
  // The same as the next turn of a conversation.
  std::string chat(std::string_view json, session& of);

  // A request whose events the caller pulls.
  request start(std::string_view json) { return start(json, nullptr); }
  request start(std::string_view json, session& of);

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

  // Vectors of texts, with a configured embedder: a request and its answer as of /v1/embeddings.
  std::string embed(std::string_view json) {
    zonda_buffer* vectors = nullptr;
    detail::check([&](zonda_error** e) {
      return zonda_embed(get(), json.data(), json.size(), &vectors, e);
    });
    return detail::take(vectors);
  }

  // The card and what the files say, as JSON.
  std::string info() const {
    zonda_buffer* card = nullptr;
    detail::check([&](zonda_error** e) { return zonda_model_info_json(get(), &card, e); });
    return detail::take(card);
  }

 private:
  std::string chat(std::string_view json, zonda_session* of) {
    const zonda_request_params params = going_on(of);
    zonda_buffer* answer = nullptr;
    detail::check([&](zonda_error** e) {
      return zonda_chat(get(), json.data(), json.size(), &params, &answer, e);
    });
    return detail::take(answer);
  }
  request start(std::string_view json, zonda_session* of) {
    const zonda_request_params params = going_on(of);
    zonda_request* started = nullptr;
    detail::check([&](zonda_error** e) {
      return zonda_chat_start(get(), json.data(), json.size(), &params, &started, e);
    });
    return request(started);
  }
  static zonda_request_params going_on(zonda_session* of) noexcept {
    zonda_request_params params;
    zonda_request_params_init(&params, sizeof params);
    params.session = of;
    return params;
  }

  void load(engine& owner, const char* path, const zonda_model_params& params) {
    zonda_model* made = nullptr;
    detail::check([&](zonda_error** e) {
      return zonda_model_load(owner.get(), path, &params, &made, e);
    });
    handle_.reset(made);
  }
  detail::owned<zonda_model, zonda_model_free> handle_;
};

// A conversation that the library remembers: requests bring only what is new.
class session {
 public:
  explicit session(model& owner) {
    zonda_session* made = nullptr;
    detail::check([&](zonda_error** e) { return zonda_session_create(owner.get(), &made, e); });
    handle_.reset(made);
  }

  zonda_session* get() const noexcept { return handle_.get(); }

  void reset() {
    detail::check([&](zonda_error** e) { return zonda_session_reset(get(), e); });
  }

 private:
  detail::owned<zonda_session, zonda_session_free> handle_;
};

inline std::string model::chat(std::string_view json, session& of) { return chat(json, of.get()); }
inline request model::start(std::string_view json, session& of) { return start(json, of.get()); }

}  // namespace zonda
