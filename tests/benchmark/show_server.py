"""The peer of `benchmark calls`: an oslo.messaging server, set up as Zun 18.0.0 sets its own up, that answers
`container_show` from Zun's database. Arguments: the configuration file, the topic, the server's name."""

import eventlet

eventlet.monkey_patch()

import sys

import oslo_messaging
from oslo_messaging.rpc import dispatcher
from zun import objects
from zun.common import context as zun_context
from zun.common import rpc
from zun.objects import base
import zun.conf


class Endpoint:
    def container_show(self, context, container):
        return objects.Container.get_by_uuid(zun_context.get_admin_context(all_projects=True), container.uuid)


def main():
    config, topic, server = sys.argv[1:]
    rpc.set_defaults("zun")
    zun.conf.CONF([], project="zun", default_config_files=[config])
    serving = oslo_messaging.get_rpc_server(
        oslo_messaging.get_rpc_transport(zun.conf.CONF),
        oslo_messaging.Target(topic=topic, server=server),
        [Endpoint()],
        executor="eventlet",
        serializer=rpc.RequestContextSerializer(base.ZunObjectSerializer()),
        access_policy=dispatcher.DefaultRPCAccessPolicy,
    )
    serving.start()
    print("ready", flush=True)
    serving.wait()


main()
