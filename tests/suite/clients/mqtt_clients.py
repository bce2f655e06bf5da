"""The same chat through paho, as MQTT 3.1.1 and 5.     mqtt_clients.py PORT NODE SITE_ROOT PROMPT MAX_TOKENS

Prints one JSON object: by protocol the deltas joined and the whole text of the final message.
"""
import json
import queue
import sys
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, node, site, prompt, limit = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
answers = {}


def ask(version, name):
    got, ready = queue.Queue(), queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version)
    client.on_message = lambda c, u, message: got.put(message)
    client.on_subscribe = lambda *arguments: ready.put(True)
    client.connect("127.0.0.1", port)
    client.loop_start()
    rid = uuid.uuid4().hex
    reply = f"{site}/client/{name}/reply/{rid}"
    client.subscribe(reply, qos=1)
    ready.get(timeout=20)
    body = {"model": "default", "messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": limit, "temperature": 0}
    properties = None
    if version == mqtt.MQTTv5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic, properties.CorrelationData = reply, uuid.uuid4().bytes
    client.publish(f"{node}/chat/request/{name}/{rid}", json.dumps(body), qos=1, properties=properties)
    deltas, accepted = {}, False
    while True:
        message = got.get(timeout=60)
        if version == mqtt.MQTTv5:
            assert message.properties.CorrelationData == properties.CorrelationData
        value = json.loads(message.payload)
        ext = value["ext"]
        if ext.get("status") == 202:
            accepted = True
        elif ext.get("fin"):
            assert ext["status"] == 200, value
            final = value["choices"][0]["message"]["content"]
            break
        else:
            deltas[ext["seq"]] = value["choices"][0]["delta"].get("content") or ""
    client.loop_stop()
    assert accepted, "no accepted message"
    joined = "".join(deltas[seq] for seq in sorted(deltas))
    assert joined == final, (joined, final)
    return final


answers["paho 3.1.1"] = ask(mqtt.MQTTv311, "paho311")
answers["paho 5"] = ask(mqtt.MQTTv5, "paho5")
print(json.dumps(answers))
