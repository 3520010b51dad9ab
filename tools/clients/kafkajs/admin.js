// What an operator does with kafkajs: one command, its answer as JSON on stdout.
//
// `admin.js HOST:PORT METHOD [ARGUMENT]` calls that method of the library's admin client with the
// argument, which is JSON.
"use strict";

const { Kafka, logLevel } = require("kafkajs");

async function run([bootstrap, method, argument]) {
  // The library asks again even where it is refused; it needs to, to learn of brokers.
  const retry = { retries: 2, initialRetryTime: 50 };
  const admin = new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING, retry }).admin();
  await admin.connect();
  try {
    const answer = await admin[method](argument === undefined ? undefined : JSON.parse(argument));
    // Bytes of members, which their own encoding tells.
    const plain = (_key, value) => (value?.type === "Buffer" ? undefined : value);
    console.log(JSON.stringify(answer ?? null, plain));
  } finally {
    await admin.disconnect();
  }
}

run(process.argv.slice(2)).catch((error) => {
  console.log(JSON.stringify({ error: error.type ?? error.name, groups: error.groups }));
  process.exit(1);
});
