"""Several MQTT clients with sessions, driven line by line.     fault_client.py PORT 5|3.1.1 SITE_ROOT CLIENT...

Reads {"client", "topic", "rid", "body"} and publishes the body at QoS 1. Prints what comes back:
{"e": "ready"}, {"e": "confirmed", "client", "rid"}, {"e": "message", "client", "rid", "payload"}.
"""
import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, version, site, names = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
five = version == "5"
output = threading.Lock()


def tell(**event):
    with output:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


class Client:
    def __init__(self, name):
        self.name, self.lock, self.rids, self.early = name, threading.Lock(), {}, set()
        protocol = mqtt.MQTTv5 if five else mqtt.MQTTv311
        more = {} if five else {"clean_session": False}
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, **more)
        self.mqtt.reconnect_delay_set(min_delay=0.1, max_delay=0.2)
        self.mqtt.on_connect = lambda client, *rest: client.subscribe(f"{site}/client/{name}/reply/+", qos=1)
        self.mqtt.on_subscribe = lambda *rest: tell(e="ready", client=name)
        self.mqtt.on_message = self.message
        self.mqtt.on_publish = self.published
        if five:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 3600
            self.mqtt.connect_async("127.0.0.1", port, clean_start=False, properties=properties)
        else:
            self.mqtt.connect_async("127.0.0.1", port)
        self.mqtt.loop_start()

    def message(self, client, userdata, message):
        payload = message.payload.decode()
        tell(e="message", client=self.name, rid=message.topic.rsplit("/", 1)[1], payload=payload)

    def published(self, client, userdata, mid, *rest):
        with self.lock:
            rid = self.rids.pop(mid, None)
            if rid is None:
                self.early.add(mid)
        if rid is not None:
            tell(e="confirmed", client=self.name, rid=rid)

    def publish(self, topic, rid, body):
        mid = self.mqtt.publish(topic, body, qos=1).mid
        with self.lock:
            early = mid in self.early
            self.early.discard(mid)
            if not early:
                self.rids[mid] = rid
        if early:
            tell(e="confirmed", client=self.name, rid=rid)


clients = {name: Client(name) for name in names}
for line in sys.stdin:
    order = json.loads(line)
    clients[order["client"]].publish(order["topic"], order["rid"], order["body"])
