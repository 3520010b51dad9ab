// Produces records with kafkajs: `produce.js HOST:PORT TOPIC CODEC COUNT`, the values 0 to COUNT - 1,
// each with its number modulo 10 as its key, acknowledged by all replicas. Codecs are those that the
// library has without others: none and gzip.
"use strict";

const { CompressionTypes, Kafka, Partitioners, logLevel } = require("kafkajs");

async function run([bootstrap, topic, codec, count]) {
  const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.ERROR });
  const producer = kafka.producer({
    createPartitioner: Partitioners.DefaultPartitioner,
    idempotent: true,
  });
  await producer.connect();
  const messages = Array.from({ length: Number(count) }, (_, number) => ({
    key: String(number % 10),
    value: String(number),
  }));
  const compression = codec === "gzip" ? CompressionTypes.GZIP : CompressionTypes.None;
  await producer.send({ topic, messages, compression, acks: -1 });
  await producer.disconnect();
}

run(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
