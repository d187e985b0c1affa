"""The other end of an RPC test: real oslo.messaging.

    peer.py server URL EXCHANGE TOPIC SERVER             serves until its input ends; says "ready" first
    peer.py call URL EXCHANGE TOPIC SERVER METHOD ARGS   prints the result, or the exception, as JSON
    peer.py cast URL EXCHANGE TOPIC SERVER METHOD ARGS
    peer.py fanout URL EXCHANGE TOPIC - METHOD ARGS
"""
import json
import sys

from oslo_config import cfg
import oslo_messaging


class Context(oslo_messaging.Serializer):
    """Contexts are plain dictionaries."""

    def serialize_entity(self, context, entity):
        return entity

    deserialize_entity = serialize_entity

    def serialize_context(self, context):
        return context

    deserialize_context = serialize_context


class Endpoint:
    target = oslo_messaging.Target(version='1.1')

    def echo(self, context, **arguments):
        return {'arguments': arguments, 'request_id': context.get('request_id'), 'user': context.get('user_id')}

    def fail(self, context, text):
        raise ValueError(text)

    @oslo_messaging.expected_exceptions(KeyError)
    def expected(self, context):
        raise KeyError('wanted')

    def silent(self, context, seconds):
        import time
        time.sleep(seconds)


def main():
    mode, url, exchange, topic, server = sys.argv[1:6]
    conf = cfg.CONF
    conf([])
    oslo_messaging.set_transport_defaults(control_exchange=exchange)
    transport = oslo_messaging.get_rpc_transport(conf, url=url, allowed_remote_exmods=['zun.common.exception'])
    target = oslo_messaging.Target(topic=topic, server=server)
    if mode == 'server':
        rpc = oslo_messaging.get_rpc_server(transport, target, [Endpoint()], executor='threading', serializer=Context())
        rpc.start()
        print('ready', flush=True)
        sys.stdin.read()
        rpc.stop()
        rpc.wait()
        return
    method, arguments = sys.argv[6], json.loads(sys.argv[7])
    target = oslo_messaging.Target(topic=topic, server=None if server == '-' else server, fanout=mode == 'fanout',
                                   version='1.1')
    client = oslo_messaging.get_rpc_client(transport, target, timeout=30, serializer=Context())
    context = {'request_id': 'req-7', 'user_id': 'ada', 'project_id': 'p', 'is_admin': True, 'extra': [1]}
    if mode != 'call':
        client.cast(context, method, **arguments)
        return
    try:
        answer = {'result': client.call(context, method, **arguments)}
    except Exception as error:
        answer = {'class': type(error).__name__, 'module': type(error).__module__, 'text': str(error),
                  'code': getattr(error, 'code', None)}
    print(json.dumps(answer))


main()
