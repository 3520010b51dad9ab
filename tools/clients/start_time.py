"""Time from starting a node to its first acknowledged record, and what it costs when idle.

usage: start_time.py CORELOG_BINARY DATA_DIR_PARENT [RUNS]

Each run starts the node on an empty directory, and again on the same one after a graceful stop and
after `kill -9` under 64 MB of records. The record is sent on a raw socket that retries to connect
every 0.2 ms, so nothing but the node is measured.
"""

import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

TABLE = []
for n in range(256):
    for _ in range(8):
        n = (n >> 1) ^ 0x82F63B78 if n & 1 else n >> 1
    TABLE.append(n)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def batch(value: bytes) -> bytes:
    def varint(n: int) -> bytes:
        n = (n << 1) ^ (n >> 63)
        out = b""
        while n > 0x7F:
            out += bytes([n & 0x7F | 0x80])
            n >>= 7
        return out + bytes([n])

    body = b"\0" + varint(0) + varint(0) + varint(-1) + varint(len(value)) + value + varint(0)
    record = varint(len(body)) + body
    now = int(time.time() * 1000)
    rest = struct.pack(">hiqqqhii", 0, 0, now, now, -1, -1, -1, 1) + record
    return struct.pack(">qiibI", 0, len(rest) + 9, -1, 2, crc32c(rest)) + rest


def request(key: int, version: int, body: bytes) -> bytes:
    head = struct.pack(">hhih", key, version, 7, -1)
    return struct.pack(">i", len(head) + len(body)) + head + body


def exchange(sock: socket.socket, frame: bytes) -> bytes:
    sock.sendall(frame)
    size = struct.unpack(">i", read(sock, 4))[0]
    return read(sock, size)


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, "the node closed the connection"
        data += more
    return data


def connect(port: int) -> socket.socket:
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            time.sleep(0.0002)


def produce(sock: socket.socket, records: bytes) -> None:
    topic = struct.pack(">h", 1) + b"t"
    body = struct.pack(">hhii", -1, -1, 30000, 1) + topic
    body += struct.pack(">iii", 1, 0, len(records)) + records
    answer = exchange(sock, request(0, 3, body))
    error = struct.unpack_from(">h", answer, 4 + 4 + 3 + 4 + 4)[0]
    assert error == 0, f"produce failed with error {error}"


def first_ack(binary: str, data: str, port: int) -> tuple[float, subprocess.Popen]:
    start = time.perf_counter()
    node = subprocess.Popen(
        [binary, "serve", "--listen", f"127.0.0.1:{port}", "--http", "", "--data-dir", data],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        try:
            with connect(port) as sock:
                # Metadata 4 with automatic creation; on a used directory the topic is there already.
                exchange(sock, request(3, 4, struct.pack(">ih", 1, 1) + b"t" + b"\1"))
                produce(sock, batch(b"first"))
                return (time.perf_counter() - start) * 1000, node
        except ConnectionResetError:
            # The node looked whether the port is free, and closed that socket again.
            continue


def idle(node: subprocess.Popen, seconds: float) -> tuple[float, float]:
    def cpu() -> int:
        fields = open(f"/proc/{node.pid}/stat").read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    # The journal's files are being filled for a moment after the start.
    time.sleep(3.0)
    before = cpu()
    time.sleep(seconds)
    share = (cpu() - before) / os.sysconf("SC_CLK_TCK") / seconds * 100
    rss = next(line for line in open(f"/proc/{node.pid}/status") if line.startswith("VmRSS"))
    return share, int(rss.split()[1]) / 1024


def main() -> None:
    binary, parent = sys.argv[1], sys.argv[2]
    runs = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    times: dict[str, list[float]] = {"empty": [], "used, stopped": [], "used, killed": []}
    shares, memories = [], []
    for run in range(runs):
        data = os.path.join(parent, f"start-{run}")
        shutil.rmtree(data, ignore_errors=True)
        port = 21000 + run
        took, node = first_ack(binary, data, port)
        times["empty"].append(took)
        share, memory = idle(node, 10.0)
        shares.append(share)
        memories.append(memory)
        node.send_signal(signal.SIGTERM)
        assert node.wait(30) == 0, "the node did not stop cleanly"
        took, node = first_ack(binary, data, port)
        times["used, stopped"].append(took)
        with connect(port) as sock:
            records = batch(b"x" * 1_000_000)
            for _ in range(64):
                produce(sock, records)
        node.kill()
        node.wait()
        took, node = first_ack(binary, data, port)
        times["used, killed"].append(took)
        node.send_signal(signal.SIGTERM)
        node.wait(30)
        shutil.rmtree(data)
    for name, values in times.items():
        text = " ".join(f"{value:.0f}" for value in values)
        print(f"start to first acknowledged record, {name}: median {statistics.median(values):.0f} ms ({text})")
    print(f"idle CPU: median {statistics.median(shares):.2f} % of a core ({' '.join(f'{s:.2f}' for s in shares)})")
    print(f"idle memory: median {statistics.median(memories):.1f} MB")


if __name__ == "__main__":
    main()
