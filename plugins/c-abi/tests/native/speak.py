"""speak.py LIBRARY: the C ABI through ctypes, a tool of the host and the metrics included."""

import ctypes
import json
import select
import sys
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint32
from ctypes import c_uint64, c_void_p


class Str(Structure):
    _fields_ = [("ptr", c_void_p), ("len", c_size_t)]

    def text(self):
        return ctypes.string_at(self.ptr, self.len).decode()


class Event(Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("kind", c_int32), ("seq", c_uint64), ("status", c_int32),
        ("token_count", c_uint32), ("text", Str), ("json", Str), ("finish_reason", Str),
    ]


TOOL_FN = ctypes.CFUNCTYPE(c_int32, Str, Str, c_uint64, c_void_p)

zonda = ctypes.CDLL(sys.argv[1])
for name in ("zonda_error_message", "zonda_buffer_data"):
    getattr(zonda, name).restype = Str
    getattr(zonda, name).argtypes = [c_void_p]
for name in ("engine", "model", "request", "error", "buffer"):
    getattr(zonda, f"zonda_{name}_free").argtypes = [c_void_p]
zonda.zonda_model_load.argtypes = [c_void_p, c_char_p, c_void_p, c_void_p, c_void_p]
zonda.zonda_chat.argtypes = [c_void_p, c_char_p, c_size_t, c_void_p, c_void_p, c_void_p]
zonda.zonda_chat_start.argtypes = zonda.zonda_chat.argtypes
zonda.zonda_request_next.argtypes = [c_void_p, c_int32, POINTER(POINTER(Event)), c_void_p]
zonda.zonda_request_fd.argtypes = [c_void_p]
zonda.zonda_request_fd.restype = c_int
zonda.zonda_engine_metrics_text.argtypes = [c_void_p, c_void_p, c_void_p]
zonda.zonda_tool_register.argtypes = [c_void_p, c_char_p, TOOL_FN, c_void_p, c_void_p]
zonda.zonda_tool_respond.argtypes = [c_void_p, c_uint64, c_char_p, c_size_t, c_bool, c_void_p]
zonda.zonda_tool_unregister.argtypes = [c_void_p, c_char_p]


def call(function, *arguments):
    """Calls what explains itself."""
    error = c_void_p()
    status = function(*arguments, byref(error))
    if status != 0:
        why = zonda.zonda_error_message(error).text()
        zonda.zonda_error_free(error)
        raise RuntimeError(f"{function.__name__}: {status}: {why}")


def taken(buffer):
    text = zonda.zonda_buffer_data(buffer).text()
    zonda.zonda_buffer_free(buffer)
    return text


def body(text):
    messages = [{"role": "user", "content": text}]
    return json.dumps({"messages": messages, "temperature": 0, "max_tokens": 64}).encode()


def chat(model, text):
    answer, asked = c_void_p(), body(text)
    call(zonda.zonda_chat, model, asked, len(asked), None, byref(answer))
    return json.loads(taken(answer))["choices"][0]["message"]["content"]


def polled(model, text):
    request, asked, said = c_void_p(), body(text), ""
    call(zonda.zonda_chat_start, model, asked, len(asked), None, byref(request))
    descriptor = zonda.zonda_request_fd(request)
    while True:
        select.select([descriptor], [], [])
        event = POINTER(Event)()
        call(zonda.zonda_request_next, request, 0, byref(event))
        if not event:
            break
        said += event.contents.text.text()
    zonda.zonda_request_free(request)
    return said


engine, model = c_void_p(), c_void_p()
call(zonda.zonda_engine_create, None, byref(engine))
call(zonda.zonda_model_load, engine, None, None, byref(model))
assert chat(model, "Turn on the kitchen light.") == "The kitchen light is on."
assert polled(model, "Turn on the kitchen light.") == "The kitchen light is on."
try:
    call(zonda.zonda_chat, model, b"{", 1, None, byref(c_void_p()))
    raise SystemExit("bad JSON is taken")
except RuntimeError as refused:
    assert ": -1: " in str(refused), refused

RESULT = json.dumps({"time": "2031-05-04T12:34:56Z", "weekday": "Sunday"}).encode()
CLOCK = {
    "name": "clock",
    "description": "Tells the current date, time and day of the week.",
    "parameters": {
        "type": "object",
        "properties": {"offset": {
            "type": "string",
            "description": "Distance of the local time from UTC, such as +02:00. "
                           "Without it, the answer is in UTC.",
        }},
        "required": [],
    },
}
heard = []


@TOOL_FN
def clock(name, arguments, call_id, _user_data):
    heard.append((name.text(), arguments.text()))
    return zonda.zonda_tool_respond(engine, call_id, RESULT, len(RESULT), False, None)


call(zonda.zonda_tool_register, engine, json.dumps({"function": CLOCK}).encode(), clock, None)
assert chat(model, "What time is it?") == "It is 12:34 UTC.", heard
assert heard[0][0] == "clock" and json.loads(heard[0][1]) == {}, heard
assert zonda.zonda_tool_unregister(engine, b"clock") == 0

text = c_void_p()
call(zonda.zonda_engine_metrics_text, engine, byref(text))
text = taken(text)
try:
    from prometheus_client.openmetrics import parser
except ImportError:
    print("skipped: no prometheus_client")
else:
    families = {family.name: family for family in parser.text_string_to_metric_families(text)}
    ended = {sample.labels["end"]: sample.value for sample in families["zonda_requests"].samples}
    assert ended["ok"] >= 3 and ended["failed"] == 0, ended
    assert families["zonda_answer_tokens"].type == "counter"
    assert families["zonda_healthy"].samples[0].value == 1
zonda.zonda_model_free(model)
zonda.zonda_engine_free(engine)
print("ok")
