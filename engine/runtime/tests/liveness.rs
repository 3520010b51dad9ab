//! A shard with runnable tasks goes on (glommio 0.9.0 alone would not: see `keep_awake` in the real backend).
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;
use std::time::Duration;

use corelog_runtime::shards::{self, Options, ShardContext};

const ROUND_TRIPS: u64 = 20_000;

#[test]
fn messages_of_two_idle_shards_never_get_stuck() {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let options = Options { shards: 2, ..Options::default() };
        let ended = shards::run(options, |context: ShardContext<u64, u64>| async move {
            if context.shard == 0 {
                for i in 0..=ROUND_TRIPS {
                    assert_eq!(context.mesh.call(1, i).await, Ok(i));
                }
                return Ok::<(), String>(());
            }
            while let Some(incoming) = context.mesh.next().await {
                let last = incoming.q == ROUND_TRIPS;
                incoming.reply.unwrap().send(incoming.q);
                if last {
                    break;
                }
            }
            Ok(())
        });
        done.send(ended).unwrap();
    });
    // A timer on a shard would wake it, so the one that looks is outside. It takes 2 seconds.
    is_done.recv_timeout(Duration::from_secs(300)).expect("the shards stand still").unwrap();
}
