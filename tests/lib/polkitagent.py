"""A program: makes calls as an ordinary process with an authentication agent, which asks whoever started it.

Prints one line of JSON per question of polkit, and a list with the outcomes of all calls at the end.
"""

import json
import os
import sys

from dbus_next import Message, MessageType, Variant

from busclient import BusError, Client, plain, variant

POLKIT, OBJECT = "org.freedesktop.PolicyKit1", "/agent"


def say(what):
    print(json.dumps(what), flush=True)


def on_message(message):
    if message.message_type is not MessageType.METHOD_CALL or message.path != OBJECT:
        return None
    if message.member != "BeginAuthentication":
        return Message.new_method_return(message)
    action, text, _, _, cookie, identities = plain(message.body)
    say({"action": action, "message": text, "cookie": cookie, "uids": [identity[1]["uid"] for identity in identities]})
    if sys.stdin.readline() == "yes\n":
        return Message.new_method_return(message)
    return Message.new_error(message, POLKIT + ".Error.Cancelled", "given up")


def start_time():
    with open("/proc/self/stat") as f:
        return int(f.read().rsplit(")", 1)[1].split()[19])


def call(client, member, signature, body, kwargs):
    kwargs["fds"] = [os.open(path, os.O_RDONLY) for path in kwargs.pop("open", ())]
    body = [{k: variant(*v) for k, v in value.items()} if isinstance(value, dict) else value for value in body]
    try:
        client.call(member, signature, body, interactive=True, **kwargs)
        return ""
    except BusError as error:
        return error.short


def main(address, locale, calls):
    sys.stdin.readline()
    with Client(address, signals=False) as client:
        client.bus.add_message_handler(on_message)
        process = ["unix-process", {"pid": Variant("u", os.getpid()), "start-time": Variant("t", start_time())}]
        client.call("RegisterAuthenticationAgent", "(sa{sv})ss", [process, locale, OBJECT], interface=POLKIT + ".Authority",
                    path="/org/freedesktop/PolicyKit1/Authority", destination=POLKIT)
        say([call(client, *c) for c in json.loads(calls)])


main(*sys.argv[1:])
