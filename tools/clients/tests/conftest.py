"""What the behaviour tests share: the broker's address, and topics of their own."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from driving import LIMIT_S, PARTITIONS, RECORDS, send
from programs import JavaTools, Member, Toolchains, member_command

_RUN = uuid.uuid4().hex[:8]
_numbers = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bootstrap", required=True, help="HOST:PORT of the broker under test")
    parser.addoption("--broker", default="external", help="corelog, kafka or external")
    parser.addoption("--java", default="", help="a JVM, for the tests marked java")
    parser.addoption("--jars", default="", help="the folder of Kafka's jars")
    parser.addoption("--tools-jar", default="", help="the jar of Kafka's command line tools")
    parser.addoption("--node", default="", help="Node.js, for the tests marked node")
    parser.addoption("--node-modules", default="", help="the folder with kafkajs")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "without_auto_create: for a broker that makes no topics automatically"
    )
    config.addinivalue_line("markers", "java: takes a JVM and Kafka's jars")
    config.addinivalue_line("markers", "node: takes Node.js and kafkajs")


@pytest.fixture
def bootstrap(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--bootstrap")


@pytest.fixture
def is_corelog(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--broker") == "corelog"


@pytest.fixture
def soon(is_corelog: bool) -> Callable[[Callable[[], bool]], bool]:
    """Whether something holds: at once on Corelog, in a moment on brokers whose metadata lags."""

    def check(holds: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + (0 if is_corelog else LIMIT_S)
        while not holds():
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    return check


@pytest.fixture
def admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap})


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of a topic that does not exist."""
    return f"{request.node.originalname[:80]}-{_RUN}-{next(_numbers)}"


@pytest.fixture
def make_topic(admin: AdminClient, name: str) -> Callable[..., str]:
    def make(partitions: int = 1, **config: str) -> str:
        topic = f"{name}-{next(_numbers)}"
        settings = {key.replace("_", "."): value for key, value in config.items()}
        made = admin.create_topics([NewTopic(topic, partitions, 1, config=settings)])
        made[topic].result(LIMIT_S)
        return topic

    return make


@pytest.fixture
def topic(make_topic: Callable[..., str]) -> str:
    """A new topic with one partition."""
    return make_topic()


@pytest.fixture
def make_producer(bootstrap: str) -> Callable[..., Producer]:
    def make(**config: object) -> Producer:
        settings = {key.replace("_", "."): value for key, value in config.items()}
        return Producer(
            {"bootstrap.servers": bootstrap, "message.timeout.ms": LIMIT_S * 1000, **settings}
        )

    return make


@pytest.fixture
def make_consumer(bootstrap: str):
    """Consumers that join no group; all are closed at the end of the test."""
    made: list[Consumer] = []

    def make(**config: object) -> Consumer:
        error_cb = config.pop("error_cb", None) or (lambda _error: None)
        settings = {key.replace("_", "."): value for key, value in config.items()}
        consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "check.crcs": True,
                "error_cb": error_cb,
                **settings,
            }
        )
        made.append(consumer)
        return consumer

    yield make
    for consumer in made:
        consumer.close()


@pytest.fixture(params=["classic", "consumer"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Each group protocol."""
    return request.param


@pytest.fixture
def filled(make_topic, make_producer) -> str:
    """A topic with the same number of records in each of its partitions."""
    topic = make_topic(PARTITIONS)
    producer = make_producer()
    for partition in range(PARTITIONS):
        values = (b"%d" % number for number in range(RECORDS // PARTITIONS))
        deliveries = send(producer, topic, values, partition=partition)
        assert not deliveries.errors
    return topic


@pytest.fixture(scope="session")
def toolchains(request: pytest.FixtureRequest) -> Toolchains:
    option = request.config.getoption
    names = ("--java", "--jars", "--tools-jar", "--node", "--node-modules")
    return Toolchains(*(option(name) for name in names))


@pytest.fixture(scope="session")
def java_tools(request: pytest.FixtureRequest, toolchains, tmp_path_factory):
    """Kafka's command line tools."""
    bootstrap = request.config.getoption("--bootstrap")
    tools = JavaTools(toolchains, bootstrap, tmp_path_factory.mktemp("java-tools"))
    yield tools
    tools.close()


@pytest.fixture
def start_member(bootstrap: str, toolchains, name: str, tmp_path):
    """Members of one group in processes of their own; whoever is left is killed after the test."""
    started: list[Member] = []

    def start(client: str, topic: str, max_messages: int | None = None) -> Member:
        arguments = ["--bootstrap-server", bootstrap, "--topic", topic, "--group-id", name]
        if max_messages is not None:
            arguments += ["--max-messages", str(max_messages)]
        command, environment = member_command(client, toolchains, arguments, tmp_path)
        started.append(Member(command, environment))
        return started[-1]

    yield start
    for member in started:
        member.kill()
