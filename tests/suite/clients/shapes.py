"""Shapes and functions through OpenAI's client, streamed and not.     shapes.py BASE_URL

Prints "ok" when every answer has its shape.
"""
import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=60)
messages = [{"role": "user", "content": "Turn on the hall light."}]
parameters = {
    "type": "object",
    "properties": {"on": {"type": "boolean"}},
    "required": ["on"],
    "additionalProperties": False,
}
tools = [{"type": "function", "function": {"name": name, "parameters": parameters}} for name in ("light", "pump")]
choice = {"type": "function", "function": {"name": "pump"}}
ask = dict(model="default", messages=messages, temperature=0, max_tokens=96)

whole = client.chat.completions.create(**ask, tools=tools, tool_choice=choice, parallel_tool_calls=False)
(call,) = whole.choices[0].message.tool_calls
assert call.function.name == "pump" and isinstance(json.loads(call.function.arguments)["on"], bool)

name, arguments, reason = "", "", None
for chunk in client.chat.completions.create(**ask, tools=tools, tool_choice="required", stream=True,
                                            parallel_tool_calls=False):
    for choice in chunk.choices:
        for delta in choice.delta.tool_calls or []:
            name += delta.function.name or ""
            arguments += delta.function.arguments or ""
        reason = choice.finish_reason or reason
assert name in ("light", "pump") and isinstance(json.loads(arguments)["on"], bool) and reason == "tool_calls"

schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": parameters, "strict": True}}
said = client.chat.completions.create(**ask, response_format=schema).choices[0].message.content
assert isinstance(json.loads(said)["on"], bool)

prediction = {"type": "content", "content": "The hall light is on."}
plain = client.chat.completions.create(**ask).choices[0].message.content
assert client.chat.completions.create(**ask, prediction=prediction).choices[0].message.content == plain
print("ok")
