"""Stands in for the module that kafka-python's source package leaves out.

The suite starts brokers through it. Here the broker runs already, and nothing else is started.
"""


class ExternalService:
    def __init__(self, host, port):
        self.host = host
        self.port = port


class SpawnedService:
    def __init__(self, args=None, env=None):
        raise RuntimeError("only the broker that runs already can be used")
