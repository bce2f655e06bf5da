"""Classification through Mistral's client.     verbs.py BASE_URL

Prints the scores of two texts and of a conversation as one JSON list.
"""
import json
import sys

try:
    from mistralai import Mistral
except ImportError:  # where the package keeps its client in a module of its own
    from mistralai.client import Mistral

client = Mistral(api_key="none", server_url=sys.argv[1])
cards = {card.id: card for card in client.models.list().data}
assert cards["house"].capabilities.classification and not cards["house"].capabilities.completion_chat

texts = client.classifiers.classify(model="house", inputs=["Open the garage door.", "Turn on the hall light."])
chat = client.classifiers.classify_chat(
    model="house", input={"messages": [{"role": "user", "content": "Open the garage door."}]})
assert texts.model == chat.model == "house" and texts.id != chat.id
results = texts.results + chat.results
assert all(abs(sum(target.scores.values()) - 1) < 1e-9 for result in results for target in result.values())
print(json.dumps([{name: target.scores for name, target in result.items()} for result in results]))
