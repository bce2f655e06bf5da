"""Likelihoods and several answers through the clients that people use.     choices.py BASE_URL

Prints "ok" when every answer tells what was asked for.
"""
import math
import sys

import openai

try:
    from mistralai import Mistral
except ImportError:  # where the package keeps its client in a module of its own
    from mistralai.client import Mistral

base = sys.argv[1]
client = openai.OpenAI(base_url=base + "/v1", api_key="none", max_retries=0, timeout=60)
messages = [{"role": "user", "content": "Turn on the hall light."}]
ask = dict(model="default", messages=messages, max_tokens=32)
likely = dict(logprobs=True, top_logprobs=5)


def check(text, told, greedy):
    assert b"".join(bytes(token.bytes) for token in told).decode().strip() == text.strip(), (text, told)
    for token in told:
        assert token.logprob <= 0 and len(token.top_logprobs) == 5, token
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1 + 1e-5, token
        best = token.top_logprobs[0]
        assert not greedy or (best.token, best.logprob) == (token.token, token.logprob), token


def streamed(**more):
    texts, told, reasons, usage, order = {}, {}, {}, [], []
    for chunk in client.chat.completions.create(**ask, **more, stream=True, stream_options={"include_usage": True}):
        usage += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            order.append(choice.index)
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            told.setdefault(choice.index, []).extend(choice.logprobs.content if choice.logprobs else [])
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    assert len(usage) == 1 and all(reasons.values()), (usage, reasons)
    return texts, told, usage[0], order


whole = client.chat.completions.create(**ask, **likely, temperature=0).choices[0]
check(whole.message.content, whole.logprobs.content, greedy=True)
texts, told, _, _ = streamed(**likely, temperature=0)
assert texts == {0: whole.message.content} and told == {0: whole.logprobs.content}
assert client.chat.completions.create(**ask, temperature=0).choices[0].logprobs is None

drawn = dict(temperature=1.5, seed=11)
answers = client.chat.completions.create(**ask, **likely, **drawn, n=3)
assert [choice.index for choice in answers.choices] == [0, 1, 2]
for choice in answers.choices:
    check(choice.message.content, choice.logprobs.content, greedy=False)
alone = [client.chat.completions.create(**ask, temperature=1.5, seed=11 + index) for index in range(3)]
assert [choice.message.content for choice in answers.choices] == [one.choices[0].message.content for one in alone]
assert answers.usage.prompt_tokens == alone[0].usage.prompt_tokens
assert answers.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)

texts, told, usage, order = streamed(**likely, **drawn, n=3)
assert texts == {choice.index: choice.message.content for choice in answers.choices}
assert told == {choice.index: choice.logprobs.content for choice in answers.choices}
assert usage.completion_tokens == answers.usage.completion_tokens
assert order != sorted(order), "the answers come one after the other"

mistral = Mistral(api_key="none", server_url=base)
drawn = dict(temperature=1.0, random_seed=11, n=3)
answers = mistral.chat.complete(**ask, **drawn)
texts, usage = {}, []
for event in mistral.chat.stream(**ask, **drawn):
    usage += [event.data.usage] if event.data.usage else []
    for choice in event.data.choices:
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
assert texts == {choice.index: choice.message.content for choice in answers.choices} and len(texts) == 3
assert [one.total_tokens for one in usage] == [answers.usage.total_tokens]
print("ok")
