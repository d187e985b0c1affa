"""Runs `openstack` commands, each in a process of its own that has the program's code already.

A line of JSON asks: `arguments`, and `environment` beside this program's own. A line of JSON answers: `status`, `out` and
`err`.
"""
import json
import os
import signal
import sys
import tempfile
import traceback

from openstackclient import shell

TIME_LIMIT = 400
# What the commands of these tests import when they are run.
for module in ('openstack.connection', 'openstackclient.identity.v3.token', 'openstackclient.image.v2.image',
               'openstackclient.network.v2.port', 'openstackclient.network.client', 'openstackclient.image.client',
               'openstackclient.identity.client', 'zunclient.osc.plugin', 'zunclient.v1.client',
               'zunclient.osc.v1.containers', 'zunclient.osc.v1.images', 'zunclient.osc.v1.capsules',
               'zunclient.osc.v1.services', 'zunclient.osc.v1.registries', 'zunclient.osc.v1.hosts'):
    try:
        __import__(module)
    except ImportError:
        pass


def run_as_child(asked, out, err):
    signal.alarm(TIME_LIMIT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    os.environ.update(asked['environment'])
    try:
        status = shell.main(asked['arguments']) or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def text(file):
    file.seek(0)
    return file.read().decode(errors='replace')


for line in sys.stdin:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            run_as_child(json.loads(line), out, err)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({'status': status, 'out': text(out), 'err': text(err)}), flush=True)
