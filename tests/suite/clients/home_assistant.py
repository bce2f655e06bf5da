"""Home Assistant's own code on what a node announces to it.     home_assistant.py BROKER_PORT

Takes the retained messages from the broker, parses the description as the MQTT integration does, builds its entities and
feeds them the node's messages; then asks through the notifier and reads the answer where Home Assistant would show it.
"""
import asyncio
import importlib
import importlib.abc
import importlib.machinery
import json
import logging
import queue
import sys
import tempfile
import time
from unittest.mock import MagicMock

import paho.mqtt.client as mqtt

# The integration imports the web server, which imports these; MQTT uses none of them.
ABSENT = ("hass_nabucasa",)
PATIENCE_S = 60


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in ABSENT else None

    def create_module(self, spec):
        module = MagicMock(name=spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module):
        pass


sys.meta_path.append(Absent())

from homeassistant.components.mqtt import discovery  # noqa: E402
from homeassistant.components.mqtt.abbreviations import ABBREVIATIONS  # noqa: E402
from homeassistant.components.mqtt.models import DATA_MQTT, MqttData, MqttValueTemplate, ReceiveMessage  # noqa: E402
from homeassistant.core import HomeAssistant  # noqa: E402
from table import Table  # noqa: E402

CLASSES = {"sensor": "MqttSensor", "binary_sensor": "MqttBinarySensor", "button": "MqttButton", "notify": "MqttNotify"}
table = Table()
check = table.check


class Complaints(logging.Handler):
    """What Home Assistant would write into its log."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())

    def none(self):
        said, self.said = self.said, []
        assert not said, said


complaints = Complaints()
logging.getLogger("homeassistant").addHandler(complaints)


class Broker:
    """Every message of the broker, the retained ones first."""

    def __init__(self, port):
        self.messages, self.latest = queue.Queue(), {}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *rest: client.subscribe("#", qos=1)
        self.client.on_message = lambda client, userdata, message: self.messages.put(message)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def until(self, wanted):
        """The first message that is `wanted`; all others are kept as the latest of their topics."""
        end = time.monotonic() + PATIENCE_S
        while True:
            message = self.messages.get(timeout=max(0.001, end - time.monotonic()))
            self.latest[message.topic] = message
            if wanted(message):
                return message


broker = Broker(int(sys.argv[1]))
announced = broker.until(lambda message: message.topic.startswith("homeassistant/"))
body = json.loads(announced.payload)
components = body["cmps"]
wanted = {body["availability"][0]["topic"]} | {c["state_topic"] for c in components.values() if "state_topic" in c}
wanted.discard(components["last_answer"]["state_topic"])
for topic in wanted:
    if topic not in broker.latest:
        broker.until(lambda message: message.topic == topic)


def received(message):
    return ReceiveMessage(message.topic, message.payload.decode(), message.qos, message.retain, message.topic, time.time())


class House:
    """An instance of Home Assistant without a configuration, and the entities of the description in it."""

    def __init__(self):
        self.hass = HomeAssistant(tempfile.mkdtemp())
        self.hass.data[DATA_MQTT] = MagicMock(spec=MqttData)
        self.entities, self.configs = {}, {}

    def discover(self):
        topic = announced.topic.removeprefix("homeassistant/")
        component, node, identifier = discovery.TOPIC_MATCHER.fullmatch(topic).groups()
        assert component == "device" and node is None
        device = discovery._parse_device_payload(self.hass, announced.payload.decode(), identifier, node)
        complaints.none()
        assert device, "the description was thrown away"
        for name, config in device["components"].items():
            platform = config.pop("platform")
            module = importlib.import_module(f"homeassistant.components.mqtt.{platform}")
            payload = discovery.MQTTDiscoveryPayload(config)
            payload.update(device=device["device"], origin=device["origin"])
            discovery._merge_common_device_options(payload, device)
            self.configs[name] = module.DISCOVERY_SCHEMA(payload)
            payload.discovery_data = {"discovery_hash": (platform, f"{identifier} {name}")}
            entity = getattr(module, CLASSES[platform])(self.hass, self.configs[name], MagicMock(), None)
            entity.hass = self.hass
            entity.hear = getattr(entity, "_update_state", None) or getattr(entity, "_state_message_received", None)
            entity.platform = MagicMock(platform_name="mqtt", platform_translations={}, component_translations={})
            entity.entity_id = f"{platform}.{name}"
            self.entities[name] = entity
        complaints.none()

    def show(self, name, message):
        """Gives an entity a message and reads its state as the rest of Home Assistant does."""
        entity = self.entities[name]
        entity.hear(received(message))
        state = entity.state
        complaints.none()
        assert state is None or len(str(state)) <= 255
        return state


house = None


@check("the description is taken, component by component")
async def description():
    global house
    house = House()
    house.discover()
    assert set(house.entities) == set(components) and len(components) >= 10


@check("nothing of the description is thrown away")
async def nothing_is_ignored():
    # The schemas of discovery drop what they do not know, without a word.
    for name, component in components.items():
        kept = house.configs[name]
        unknown = [key for key in component if key != "p" and ABBREVIATIONS.get(key, key) not in kept]
        assert not unknown, f"{name}: {unknown}"


@check("the service quality of the description holds for every component")
async def quality():
    # Home Assistant does not hand the device's own down to its components.
    assert {name: config["qos"] for name, config in house.configs.items()} == dict.fromkeys(components, 1)


@check("every entity is available by the word that the node says")
async def availability():
    for name, config in house.configs.items():
        (where,) = config["availability"]
        word = broker.latest[where["topic"]].payload.decode()
        assert word == where["payload_available"] != where["payload_not_available"], f"{name}: {word}"


@check("every sensor shows the node's messages")
async def sensors():
    shown = {
        name: house.show(name, broker.latest[component["state_topic"]])
        for name, component in components.items()
        if component["p"] in ("sensor", "binary_sensor") and name != "last_answer"
    }
    assert shown["problem"] == "off", shown
    assert float(shown["queue"]) == 0 and float(shown["active"]) == 0 and float(shown["memory"]) > 1e6, shown
    assert float(shown["tokens_per_s"]) >= 0 and shown["model"] not in (None, "none"), shown


@check("sensors of a box without warmth and without a model say that it is not known")
async def bare():
    class Bare:
        topic, qos, retain = "t", 1, True

    state = json.loads(broker.latest[components["temperature"]["state_topic"]].payload)
    Bare.payload = json.dumps(dict(state, temperature_c=None, gpu_temperature_c=None, problem=True)).encode()
    assert house.show("temperature", Bare) is None and house.show("problem", Bare) == "on"
    Bare.payload = json.dumps(dict(state, temperature_c=61.5, gpu_temperature_c=None)).encode()
    assert float(house.show("temperature", Bare)) == 61.5
    birth = json.loads(broker.latest[components["model"]["state_topic"]].payload)
    Bare.payload = json.dumps(dict(birth, models=[])).encode()
    assert house.show("model", Bare) == "none"


def answer_to(payload):
    """What the notifier's text becomes: the message, and what the sensor shows of it."""
    broker.client.publish(components["ask"]["command_topic"], payload, qos=house.configs["ask"]["qos"])
    message = broker.until(lambda message: message.topic == components["last_answer"]["state_topic"])
    entity = house.entities["last_answer"]
    entity._attributes_config = house.configs["last_answer"]
    if entity._attr_tpl is None:
        template = entity._attributes_config["json_attributes_template"]
        entity._attr_tpl = MqttValueTemplate(template, entity=entity).async_render_with_possible_json_value
    entity._attributes_message_received(received(message))
    return json.loads(message.payload), house.show("last_answer", message), entity._attr_extra_state_attributes


@check("a question of the notifier is answered in the sensor and its attributes")
async def ask():
    render = house.entities["ask"]._command_template
    message, shown, attributes = answer_to(render("Turn on the kitchen light."))
    text = message["choices"][0]["message"]["content"]
    assert attributes["text"] == text and shown == text[:255].strip(), (shown, attributes)
    assert attributes["status"] == 200 and attributes["id"] and attributes["model"]


@check("a refusal is shown, too")
async def refusal():
    message, shown, attributes = answer_to("Turn on the light. " * 5000)
    assert attributes["status"] == message["ext"]["status"] >= 400
    assert shown == attributes["text"][:255].strip() == message["error"]["message"][:255].strip(), shown


@check("the button cancels what the notifier asked")
async def cancel():
    press, ends = house.configs["cancel_all"], []
    # The answer may be quicker than the button, now and then.
    while 499 not in ends and len(ends) < 50:
        broker.client.publish(components["ask"]["command_topic"], "Turn on the light. " * 30, qos=1)
        broker.client.publish(press["command_topic"], press["payload_press"], qos=press["qos"])
        message = broker.until(lambda message: message.topic == components["last_answer"]["state_topic"])
        ends.append(json.loads(message.payload)["ext"]["status"])
    assert ends[-1] == 499, ends


table.run()
