#!/usr/bin/env python3
"""Sentences to the model that the program carries, over MQTT, and how many of them become calls in a minute.

Each is a mosquitto_rr of its own against the broker in the program: connecting, the request with its tools,
the whole answer, all told.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import children
from answers import HOST, free_port
from children import Failed

REQUEST_TIMEOUT_S = 60
START_TIMEOUT_S = 60
ROOMS = ["kitchen", "office", "garage", "attic", "laundry room", "server room", "canteen", "workshop"]
LIGHTS = ["ceiling light", "desk lamp", "heater", "fan", "coffee machine", "printer"]
PLACES = ["Küche", "Garage", "Werkstatt", "Kantine"]


def tool(name: str, description: str, properties: dict) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function",
            "function": {"name": name, "description": description, "parameters": parameters}}


TEXT = {"type": "string"}
TOOLS = [
    tool("switch_device", "Switches a device on or off.",
         {"device": TEXT, "room": TEXT, "state": {"type": "string", "enum": ["on", "off"]}}),
    tool("set_temperature", "Sets the temperature of a room.", {"room": TEXT, "temperature": {"type": "number"}}),
    tool("get_temperature", "Reads the temperature of a room.", {"room": TEXT}),
]


def sentence(dice: random.Random) -> str:
    """A command to one of the tools; hardly one is like another."""
    number = dice.randint(1, 99)
    return dice.choice([
        f"Turn on the {dice.choice(LIGHTS)} {number} in the {dice.choice(ROOMS)}.",
        f"Turn the {dice.choice(LIGHTS)} {number} in the {dice.choice(ROOMS)} off, please.",
        f"Set the {dice.choice(ROOMS)} {number} to {dice.randint(12, 28)} degrees.",
        f"How warm is it in the {dice.choice(ROOMS)} {number}?",
        f"Stell die {dice.choice(PLACES)} {number} auf {dice.randint(12, 28)} Grad.",
    ])


def ask(port: int, text: str, client: int) -> tuple:
    """The seconds that one command took, and whether it became a call."""
    body = {"model": "default", "temperature": 0, "tools": TOOLS, "ext": {"mode": "final"},
            "messages": [{"role": "user", "content": text}]}
    command = ["mosquitto_rr", "-V", "5", "-q", "1", "-h", HOST, "-p", str(port), "-W", str(REQUEST_TIMEOUT_S),
               "-t", "zonda/v1/default/bench/chat/request", "-e", f"zonda/v1/default/client/c{client}/reply/1",
               "-m", json.dumps(body)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    took = time.monotonic() - began
    if done.returncode != 0 or not done.stdout.strip():
        raise Failed(f"mosquitto_rr ended with {done.returncode}: {done.stderr.strip()}")
    final = json.loads(done.stdout.splitlines()[-1])
    if "error" in final:
        raise Failed(f"{text!r} was refused: {final['error']}")
    return took, bool(final["choices"][0]["message"].get("tool_calls"))


def measure(port: int, clients: int, count: int, dice: random.Random) -> dict:
    texts = [sentence(dice) for _ in range(count)]
    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        outcomes = list(pool.map(ask, [port] * count, texts, [at % clients for at in range(count)]))
    minutes = (time.monotonic() - began) / 60
    times = sorted(took for took, _ in outcomes)
    return {"clients": clients, "commands": count, "per_minute": count / minutes,
            "median_ms": 1e3 * statistics.median(times), "worst_ms": 1e3 * times[-1],
            "calls": sum(is_call for _, is_call in outcomes)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zonda", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="another model than the one in the program")
    parser.add_argument("--count", type=int, default=100, help="commands of each row")
    parser.add_argument("--clients", default="1,4", help="clients at once, for each row")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    http, mqtt = free_port(), free_port()
    model = ["--model", arguments.model] if arguments.model else []
    command = [arguments.zonda, "serve", *model, "--http", f"{HOST}:{http}", "--set", f"mqtt.broker_address={HOST}:{mqtt}",
               "--set", "mqtt.node=bench"]
    server = children.Server(command)
    try:
        is_ready = wait_ready(mqtt, server)
        if not is_ready:
            raise Failed("zonda was not ready in time")
        dice = random.Random(arguments.seed)
        measure(mqtt, 1, 5, dice)
        print(f"{platform.machine()}, one answer after the other of each client")
        print(f"{'clients':>7} {'commands':>8} {'a minute':>8} {'median ms':>9} {'worst ms':>8} {'calls':>6}")
        for clients in map(int, arguments.clients.split(",")):
            row = measure(mqtt, clients, arguments.count, dice)
            print(f"{row['clients']:>7} {row['commands']:>8} {row['per_minute']:>8.0f} {row['median_ms']:>9.0f} "
                  f"{row['worst_ms']:>8.0f} {row['calls']:>6}")
        server.stop(START_TIMEOUT_S)
    except Failed as error:
        print(f"commands.py: {error}", file=sys.stderr)
        return 1
    finally:
        server.end()
    return 0


def wait_ready(port: int, server: children.Server) -> bool:
    """Whether the box said within time that it is online."""
    command = ["mosquitto_sub", "-h", HOST, "-p", str(port), "-t", "zonda/v1/default/bench/status", "-C", "1",
               "-W", "5"]
    while time.monotonic() - server.began < START_TIMEOUT_S and not server.has_ended():
        said = subprocess.run(command, capture_output=True, text=True)
        if said.stdout.strip() == "online":
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    sys.exit(main())
