"""Mistral's client, every part of it that this API answers.     mistral_client.py BASE_URL MODEL

The model is the one that the program carries; at most four answers run and twelve wait.
"""
import json
import sys
import threading
import time
import urllib.request

from pydantic import BaseModel, Field
from table import Table, eventually, raises

try:
    from mistralai import Mistral
except ImportError:  # where the package keeps its client in a module of its own
    from mistralai.client import Mistral
from mistralai.client import errors
from mistralai.client.utils import BackoffStrategy, RetryConfig

base, model = sys.argv[1:3]
table = Table()
check = table.check
client = Mistral(api_key="none", server_url=base, timeout_ms=60_000)
SAY = "Turn on the kitchen light."
SAID = "The kitchen light is on."
MESSAGES = [{"role": "user", "content": SAY}]
ASK = dict(model=model, messages=MESSAGES, temperature=0, max_tokens=48)
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
LOOKUP = {"type": "function", "function": {"name": "lookup", "description": "Looks a city up.", "parameters": PARAMETERS}}
LONG = dict(model=model, messages=MESSAGES, temperature=1.5, max_tokens=900, n=16)


class Setting(BaseModel):
    room: str = Field(max_length=8)
    degrees: int = Field(ge=0, le=99)


def joined(events):
    """Text, finish reason and usage of a stream."""
    text, reason, usages = "", None, []
    for event in events:
        if event.data.usage:
            usages.append(event.data.usage)
        for choice in event.data.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    assert len(usages) == 1, "usage rides on the last chunk, and nowhere else"
    return text, reason, usages[0]


@check("mistral chat: whole")
def chat():
    answer = client.chat.complete(**ASK)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and len(answer.id) == 32 and answer.created > 0
    assert (choice.message.content, choice.finish_reason, choice.index) == (SAID, "stop", 0)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@check("mistral chat: async")
async def chat_async():
    answer = await client.chat.complete_async(**ASK)
    assert answer.choices[0].message.content == SAID


@check("mistral stream: usage on the last chunk")
def stream():
    text, reason, usage = joined(client.chat.stream(**ASK))
    assert (text, reason) == (SAID, "stop") and usage.completion_tokens > 0


@check("mistral stream: async")
async def stream_async():
    text = ""
    async for event in await client.chat.stream_async(**ASK):
        text += event.data.choices[0].delta.content or ""
    assert text == SAID


@check("mistral chat: every field that it sends")
def fields():
    answer = client.chat.complete(
        **ASK, top_p=1, random_seed=7, stop=["zzz"], n=1, presence_penalty=0, frequency_penalty=0, min_tokens=1,
        repetition_penalty=1, top_k=0, metadata={"k": "v"}, response_format={"type": "text"}, tools=[], tool_choice="auto",
        parallel_tool_calls=True, prediction={"type": "content", "content": SAID}, prompt_cache_key="k", service_tier="auto",
        safe_prompt=False, guardrails=[], reasoning_effort="none",
    )
    assert answer.choices[0].message.content == SAID


@check("mistral chat: safe_prompt adds its text to the prompt")
def safe_prompt():
    plain, safe = (client.chat.complete(**ASK, safe_prompt=safe).usage.prompt_tokens for safe in (False, True))
    assert safe > plain + 20, (plain, safe)


@check("mistral chat: stop as a text and as a list")
def stops():
    for stop in (" light", ["zzz", " light"]):
        choice = client.chat.complete(**ASK, stop=stop).choices[0]
        assert (choice.message.content, choice.finish_reason) == ("The kitchen", "stop")


@check("mistral chat: random_seed repeats an answer; n answers")
def seeds():
    say = lambda: client.chat.complete(model=model, messages=MESSAGES, temperature=1.5, random_seed=7, max_tokens=16, n=2)
    first, second = say(), say()
    assert [choice.message.content for choice in first.choices] == [choice.message.content for choice in second.choices]
    assert [choice.index for choice in first.choices] == [0, 1]


@check("mistral chat: logprobs")
def likelihoods():
    told = client.chat.complete(**ASK, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert "".join(token.token for token in told).strip() == SAID and len(told[0].top_logprobs) == 2


@check("mistral chat: a prefix begins the answer, whole and streamed")
def prefix():
    begun = dict(ASK, messages=[*MESSAGES, {"role": "assistant", "content": "The kitchen", "prefix": True}])
    said = client.chat.complete(**begun).choices[0].message
    assert said.content.startswith("The kitchen") and said.prefix is False
    assert joined(client.chat.stream(**begun))[0] == said.content


@check("mistral chat: rows of one role, lists of text chunks")
def rows():
    messages = [{"role": "system", "content": "A"}, {"role": "system", "content": [{"type": "text", "text": "B"}]}, *MESSAGES, *MESSAGES]
    assert client.chat.complete(**dict(ASK, messages=messages)).choices[0].finish_reason


@check("mistral tools: a call of any function, its result, the answer to it")
def tools():
    answer = client.chat.complete(model=model, messages=MESSAGES, tools=[LOOKUP], tool_choice="any", parallel_tool_calls=False, max_tokens=200, random_seed=1)
    choice = answer.choices[0]
    call = choice.message.tool_calls[0]
    assert (choice.finish_reason, call.type, call.function.name) == ("tool_calls", "function", "lookup")
    assert len(call.id) == 9 and call.id.isalnum()
    assert set(json.loads(call.function.arguments)) == {"city", "n"}
    for arguments in (call.function.arguments, json.loads(call.function.arguments)):
        said = {"role": "assistant", "content": None, "tool_calls": [{"id": call.id, "function": {"name": "lookup", "arguments": arguments}}]}
        messages = [*MESSAGES, said, {"role": "tool", "tool_call_id": call.id, "name": "lookup", "content": '{"ok": true}'}]
        again = client.chat.complete(model=model, messages=messages, tools=[LOOKUP], tool_choice="none", max_tokens=8)
        assert not again.choices[0].message.tool_calls
    messages = [*MESSAGES, choice.message, {"role": "tool", "tool_call_id": call.id, "content": "1"}]
    assert client.chat.complete(**dict(ASK, messages=messages), tools=[LOOKUP]).choices[0].finish_reason


@check("mistral tools: a call comes whole in one delta")
def tools_streamed():
    ask = dict(model=model, messages=MESSAGES, tools=[LOOKUP], tool_choice={"type": "function", "function": {"name": "lookup"}}, parallel_tool_calls=False, max_tokens=200, random_seed=1)
    calls = [call for event in client.chat.stream(**ask) for choice in event.data.choices for call in choice.delta.tool_calls or []]
    assert len(calls) == 1 and set(json.loads(calls[0].function.arguments)) == {"city", "n"}


@check("mistral shapes: parse gives a pydantic object, sync and streamed")
def parsed():
    answer = client.chat.parse(model=model, messages=MESSAGES, response_format=Setting, max_tokens=200, random_seed=1)
    assert isinstance(answer.choices[0].message.parsed, Setting)
    text = joined(client.chat.parse_stream(model=model, messages=MESSAGES, response_format=Setting, max_tokens=200, random_seed=1))[0]
    assert Setting.model_validate_json(text)


@check("mistral shapes: parse, async")
async def parsed_async():
    answer = await client.chat.parse_async(model=model, messages=MESSAGES, response_format=Setting, max_tokens=200, random_seed=1)
    assert isinstance(answer.choices[0].message.parsed, Setting)


@check("mistral shapes: json_object")
def json_object():
    choice = client.chat.complete(model=model, messages=MESSAGES, response_format={"type": "json_object"}, max_tokens=400, random_seed=3).choices[0]
    assert choice.message.content.lstrip().startswith("{")


@check("mistral fim: whole, streamed, async")
async def fim():
    ask = dict(model=model, prompt="def f(", suffix="return 1", temperature=0, max_tokens=8, min_tokens=1, random_seed=1, stop=["zzz"])
    whole = client.fim.complete(**ask)
    assert whole.object == "chat.completion" and whole.choices[0].message.role == "assistant"
    assert joined(client.fim.stream(**ask))[0] == whole.choices[0].message.content
    assert (await client.fim.complete_async(**ask)).choices[0].message.content == whole.choices[0].message.content


@check("mistral models: list, retrieve, delete refused")
def models():
    cards = client.models.list().data
    card = client.models.retrieve(model_id=cards[0].id)
    assert card.type == "base" and card.capabilities.completion_chat and card.max_context_length == 1024
    assert card.default_model_temperature is not None
    raises(errors.SDKError, lambda: client.models.retrieve(model_id="no-such-model"), status_code=404)
    for name, status in ((cards[0].id, 403), ("no-such-model", 404)):
        raises(errors.MistralError, lambda: client.models.delete(model_id=name), status_code=status)


@check("mistral classifiers: texts and conversations")
def classifiers():
    headers = {"Content-Type": "application/json"}
    for path, given in (("/v1/classifications", SAY), ("/v1/chat/classifications", {"messages": MESSAGES})):
        body = json.dumps({"model": model, "input": [given], "labels": ["light", "door"]}).encode()
        answer = json.load(urllib.request.urlopen(urllib.request.Request(base + path, body, headers)))
        assert set(answer["results"][0]["label"]["scores"]) == {"light", "door"}, answer
    # Without labels a model that is no classifier is named as the fault.
    error = raises(errors.MistralError, lambda: client.classifiers.classify(model=model, inputs=[SAY]))
    assert error.status_code in (400, 404, 422), error


def lines_of(file):
    return [json.loads(line) for line in client.files.download(file_id=file).read().decode().splitlines()]


def ended(job):
    told = eventually(lambda: (lambda job: job.status not in ("QUEUED", "RUNNING", "CANCELLATION_REQUESTED") and job)(client.batch.jobs.get(job_id=job.id)))
    assert told.completed_requests == told.succeeded_requests + told.failed_requests
    return told


@check("mistral files: upload, list, retrieve, download, delete")
def files():
    content = b'{"custom_id": "0", "body": {}}\n'
    file = client.files.upload(file={"file_name": "in.jsonl", "content": content}, purpose="batch")
    assert (file.size_bytes, file.num_lines, file.purpose, file.source) == (len(content), 1, "batch", "upload")
    listed = client.files.list(page_size=1)
    assert listed.data[0].id == file.id and listed.total >= 1
    got = client.files.retrieve(file_id=file.id)
    assert got.filename == "in.jsonl" and got.deleted is False and got.sample_type == "batch_request"
    assert client.files.download(file_id=file.id).read() == content
    assert client.files.delete(file_id=file.id).deleted
    raises(errors.SDKError, lambda: client.files.retrieve(file_id=file.id), status_code=404)


@check("mistral batch: requests of a file, answers and faults as files")
def batch_of_file():
    bodies = {"good": dict(messages=MESSAGES, temperature=0, max_tokens=48), "bad": dict(messages=[]), "streamed": dict(messages=MESSAGES, temperature=0, stream=True)}
    content = "\n".join(json.dumps({"custom_id": name, "body": body}) for name, body in bodies.items()).encode()
    file = client.files.upload(file={"file_name": "in.jsonl", "content": content}, purpose="batch")
    job = client.batch.jobs.create(input_files=[file.id], model=model, endpoint="/v1/chat/completions", metadata={"who": "me"}, timeout_hours=1)
    assert job.object == "batch" and job.total_requests == 3 and job.metadata == {"who": "me"} and job.created_at
    over = ended(job)
    assert (over.status, over.succeeded_requests, over.failed_requests) == ("SUCCESS", 2, 1) and over.completed_at >= over.started_at
    answers = lines_of(over.output_file)
    assert [answer["custom_id"] for answer in answers] == ["good", "streamed"]
    assert all(answer["response"]["body"]["choices"][0]["message"]["content"] == SAID for answer in answers)
    assert lines_of(over.error_file)[0]["response"]["status_code"] == 400
    assert job.id in [one.id for one in client.batch.jobs.list(status=["SUCCESS"], page_size=100).data]


@check("mistral batch: inline requests of every endpoint, inline answers")
def batch_inline():
    bodies = {
        "/v1/chat/completions": dict(messages=MESSAGES, temperature=0),
        "/v1/fim/completions": dict(prompt="def f(", max_tokens=4),
        "/v1/classifications": dict(input=SAY, labels=["light", "door"]),
        "/v1/chat/classifications": dict(input={"messages": MESSAGES}, labels=["light", "door"]),
    }
    for endpoint, body in bodies.items():
        job = client.batch.jobs.create(requests=[{"custom_id": "a", "body": body}], model=model, endpoint=endpoint)
        over = ended(job)
        assert over.status == "SUCCESS", (endpoint, lines_of(over.error_file))
        told = client.batch.jobs.get(job_id=job.id, inline=True)
        assert len(told.outputs) == 1 and told.outputs[0]["response"]["status_code"] == 200
        assert client.batch.jobs.delete(job_id=job.id).deleted


@check("mistral batch: cancel")
def batch_cancel():
    body = dict(messages=MESSAGES, max_tokens=900, min_tokens=900, temperature=1.5)
    job = client.batch.jobs.create(requests=[{"body": body} for _ in range(200)], model=model, endpoint="/v1/chat/completions")
    assert client.batch.jobs.cancel(job_id=job.id).status in ("CANCELLATION_REQUESTED", "CANCELLED")
    assert ended(job).status == "CANCELLED"


@check("mistral batch: refusals")
def batch_refused():
    create = client.batch.jobs.create
    for status, ask in [
        (404, dict(input_files=["00000000-0000-0000-0000-000000000000"], endpoint="/v1/chat/completions")),
        (422, dict(requests=[{"body": {}}], endpoint="/v1/ocr")),
        (422, dict(requests=[{"custom_id": "a", "body": {}}, {"custom_id": "a", "body": {}}], endpoint="/v1/chat/completions")),
        (422, dict(endpoint="/v1/chat/completions")),
    ]:
        raises(errors.SDKError, lambda: create(**ask), status_code=status)
    raises(errors.SDKError, lambda: client.batch.jobs.get(job_id="nobody"), status_code=404)


@check("mistral errors: 422 is HTTPValidationError with the field's place")
def invalid():
    error = raises(errors.HTTPValidationError, lambda: client.chat.complete(**ASK, top_p=7), status_code=422)
    told = error.data.detail[0]
    assert told.loc == ["body", "top_p"] and told.msg and told.type == "value_error"
    error = raises(errors.HTTPValidationError, lambda: client.chat.stream(**ASK, presence_penalty=7))
    assert error.data.detail[0].loc == ["body", "presence_penalty"]


@check("mistral errors: 400, 404 are SDKError with a body that tells")
def errors_told():
    for more, status, code in [
        (dict(model="no-such-model"), 404, "model_not_found"),
        (dict(messages=[]), 400, "bad_request"),
        (dict(max_tokens=5000), 400, "context_length_exceeded"),
        (dict(prompt_mode="reasoning"), 400, "unsupported"),
        (dict(messages=[{"role": "assistant", "content": "x"}]), 400, "bad_request"),
    ]:
        error = raises(errors.SDKError, lambda: client.chat.complete(**dict(ASK, **more)), status_code=status)
        body = json.loads(error.body)
        assert (body["object"], body["code"], body["raw_status_code"]) == ("error", code, status), body


@check("mistral errors: a deadline that passes in mid-stream raises")
def mid_stream():
    import httpx2 as httpx

    def add_deadline(request):
        body = json.loads(request.content)
        body |= {"ext": {"ttl_s": 1}, "logprobs": True, "top_logprobs": 20}
        data = json.dumps(body).encode()
        request.headers["content-length"] = str(len(data))
        request.stream = httpx.ByteStream(data)

    hooked = Mistral(api_key="none", server_url=base, client=httpx.Client(event_hooks={"request": [add_deadline]}, timeout=60))
    with hooked.chat.stream(**LONG, min_tokens=900) as events:
        # Tens of megabytes that nobody takes: however fast the program is, it has to wait.
        next(iter(events))
        time.sleep(1.5)
        # The client has no shape for a fault inside a stream; what it was sent is in its own error.
        error = raises(errors.ResponseValidationError, lambda: joined(events))
        assert json.loads(error.body)["data"]["code"] == "deadline_exceeded", error.body


@check("mistral errors: a full queue is 429; the client's own retry by Retry-After gets through")
def busy():
    with client.chat.stream(**LONG, min_tokens=900) as events:
        next(iter(events))
        error = raises(errors.SDKError, lambda: client.chat.complete(**ASK, n=16), status_code=429)
        assert float(error.headers["retry-after"]) > 0
        asked = []
        retries = RetryConfig("backoff", BackoffStrategy(100, 2000, 1.5, 60_000), False)
        thread = threading.Thread(target=lambda: asked.append(client.chat.complete(**ASK, n=16, retries=retries)))
        thread.start()
    thread.join()
    assert asked[0].choices[15].message.content == SAID


table.run()
