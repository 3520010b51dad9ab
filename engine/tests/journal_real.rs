//! The journal on the real backend: io_uring, direct I/O, the disk of this machine.

#![allow(clippy::unwrap_used, missing_docs)]

use corelog_engine::journal::{Entry, EntryKind, Journal, JournalError, JournalOptions};
use corelog_engine::types::{LeaderEpoch, Lsn, Offset, PartitionId, TopicId, TopicPartition};
use corelog_runtime::shards::{Options, ShardContext, run};

fn entry(number: u64, len: usize) -> Entry {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(len.max(8), 0x5a);
    Entry {
        kind: EntryKind::Append,
        target: TopicPartition::new(TopicId::default(), PartitionId(0)),
        base_offset: Offset(0),
        leader_epoch: LeaderEpoch(0),
        payload: payload.into(),
    }
}

async fn use_and_use_again(options: JournalOptions) -> Result<(), JournalError> {
    let (journal, report) = Journal::open(options.clone(), |_, _| {}).await?;
    assert_eq!(report.next_lsn, Lsn(0));
    for number in 0..200 {
        let lsn = journal.append(entry(number, 100));
        if number % 4 == 0 {
            journal.wait_synced(lsn).await?;
        }
    }
    let mut last = Lsn(0);
    for number in 200..600 {
        journal.drained_below(8 << 20).await;
        last = journal.append(entry(number, 100_000));
    }
    journal.wait_synced(last).await?;
    assert!(journal.files_live() > 3, "files were rolled");
    let oldest = journal.oldest_live().unwrap();
    journal.release(oldest.end);
    let last = journal.append(entry(600, 100));
    journal.wait_synced(last).await?;
    journal.close().await?;

    let mut next = None;
    let (journal, report) = Journal::open(options, |lsn, replayed: Entry| {
        assert_eq!(lsn, next.unwrap_or(lsn));
        assert_eq!(replayed.payload[..8], lsn.0.to_le_bytes());
        next = Some(lsn.next());
    })
    .await?;
    assert_eq!(next, Some(Lsn(601)));
    assert!(report.corruption.is_none() && report.torn_at.is_none());
    let lsn = journal.append(entry(601, 100));
    journal.wait_synced(lsn).await?;
    journal.close().await
}

#[test]
fn a_journal_on_a_real_disk_is_read_back_after_a_restart() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let data = dir.path().to_path_buf();
    let options = Options { shards: 1, data_dirs: vec![data.clone()], ..Options::default() };
    run(options, move |_: ShardContext<(), ()>| {
        use_and_use_again(JournalOptions {
            file_bytes: 8 << 20,
            first_file_bytes: 4 << 20,
            max_files: 20,
            ..JournalOptions::new(data.join("journal"), 1)
        })
    })
    .unwrap();
}
