// A member of a group with kafkajs that says what it does as Kafka's own verifiable consumer does.
//
// Every event is a JSON object on a line of its own: `partitions_assigned`, `partitions_revoked`,
// `records_consumed`, `offsets_committed`, and `shutdown_complete` when it has left its group after
// SIGTERM or after as many records as it was asked for. It commits after every batch of records.
"use strict";

const { parseArgs } = require("node:util");
const { Kafka, KafkaJSProtocolError, logLevel } = require("kafkajs");

// A member hears of a rebalance with its next heartbeat: tests wait for that.
const HEARTBEAT_INTERVAL_MS = 500;
const FETCH_WAIT_MS = 200;

function say(name, fields) {
  process.stdout.write(`${JSON.stringify({ name, ...fields })}\n`);
}

/** Says what the member holds: the library tells a whole assignment, or that it begins anew. */
function sayAssignments(consumer, topic) {
  let held = [];
  const revoke = () => {
    if (held.length > 0) say("partitions_revoked", { partitions: held });
    held = [];
  };
  consumer.on(consumer.events.REBALANCING, revoke);
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    revoke();
    const partitions = payload.memberAssignment[topic] ?? [];
    held = partitions.map((partition) => ({ topic, partition }));
    say("partitions_assigned", { partitions: held });
  });
}

async function commit(consumer, topic, partition, offset) {
  try {
    await consumer.commitOffsets([{ topic, partition, offset: String(offset) }]);
  } catch (error) {
    if (!(error instanceof KafkaJSProtocolError)) throw error;
    // The group has gone on to another generation meanwhile, which hands the records out again.
    say("offsets_committed", { success: false, error: error.type });
    throw error;
  }
  say("offsets_committed", { success: true, offsets: [{ topic, partition, offset }] });
}

async function consume({ bootstrap, topic, groupId, maxMessages }) {
  const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.ERROR });
  const consumer = kafka.consumer({
    groupId,
    heartbeatInterval: HEARTBEAT_INTERVAL_MS,
    maxWaitTimeInMs: FETCH_WAIT_MS,
  });
  sayAssignments(consumer, topic);
  let stop;
  const stopped = new Promise((resolve, reject) => {
    stop = resolve;
    consumer.on(consumer.events.CRASH, ({ payload }) => {
      if (!payload.restart) reject(payload.error);
    });
  });
  process.once("SIGTERM", stop);
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  let left = maxMessages;
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset, heartbeat }) => {
      const records = batch.messages.slice(0, left);
      if (records.length === 0) return;
      left -= records.length;
      const [minOffset, maxOffset] = [records[0], records.at(-1)].map(({ offset }) => Number(offset));
      const { partition } = batch;
      const read = [{ topic, partition, count: records.length, minOffset, maxOffset }];
      say("records_consumed", { count: records.length, partitions: read });
      await commit(consumer, topic, partition, maxOffset + 1);
      resolveOffset(String(maxOffset));
      await heartbeat();
      if (left === 0) stop();
    },
  });
  await stopped;
  await consumer.disconnect();
  say("shutdown_complete");
}

const { values } = parseArgs({
  options: {
    "bootstrap-server": { type: "string" },
    topic: { type: "string" },
    "group-id": { type: "string" },
    "max-messages": { type: "string", default: String(2 ** 31) },
  },
});
consume({
  bootstrap: values["bootstrap-server"],
  topic: values.topic,
  groupId: values["group-id"],
  maxMessages: Number(values["max-messages"]),
}).catch((error) => {
  console.error(error);
  process.exit(1);
});
