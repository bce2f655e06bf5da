"""The same chat through the clients that people use.     http_clients.py BASE_URL MODEL PROMPT MAX_TOKENS

Prints one JSON object: the answer's text by client, streamed and not.
"""
import json
import sys

import openai

try:
    from mistralai import Mistral
except ImportError:  # where the package keeps its client in a module of its own
    from mistralai.client import Mistral

base, model, prompt, limit = sys.argv[1:4] + [int(sys.argv[4])]
ask = dict(model=model, messages=[{"role": "user", "content": prompt}], max_tokens=limit, temperature=0)
answers = {}

client = openai.OpenAI(base_url=base + "/v1", api_key="none", max_retries=0, timeout=60)
whole = client.chat.completions.create(**ask)
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
answers["openai"] = whole.choices[0].message.content
parts, usage = [], None
for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
    parts += [choice.delta.content or "" for choice in chunk.choices]
    usage = chunk.usage or usage
assert usage is not None and usage.total_tokens == whole.usage.total_tokens
answers["openai stream"] = "".join(parts)

mistral = Mistral(api_key="none", server_url=base)
answers["mistralai"] = mistral.chat.complete(**ask).choices[0].message.content
usage = None
parts = []
for event in mistral.chat.stream(**ask):
    usage = event.data.usage or usage
    parts += [choice.delta.content or "" for choice in event.data.choices]
assert usage is not None and usage.total_tokens == whole.usage.total_tokens
answers["mistralai stream"] = "".join(parts)

names = [card.id for card in client.models.list().data]
assert names and names == [card.id for card in mistral.models.list().data], names
try:
    client.chat.completions.create(**dict(ask, model="no-such-model"))
    raise SystemExit("an unknown model was accepted")
except openai.NotFoundError as error:
    assert error.code == "model_not_found", error.body
print(json.dumps(answers))
