//! Metadata on the real backend: one start on an empty directory, and one after an orderly stop.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Instant;

use corelog_engine::api::NewTopic;
use corelog_engine::journal::{Journal, JournalOptions};
use corelog_engine::meta::image::MetaImage;
use corelog_engine::meta::{Meta, MetaError, MetaOptions, MetaRecovery};
use corelog_engine::types::NodeId;
use corelog_runtime::shards::{Options, ShardContext, run};

async fn life(dir: PathBuf, names: &'static [&'static str]) -> Result<MetaImage, MetaError> {
    let begun = Instant::now();
    let mut recovery = MetaRecovery::default();
    let options = JournalOptions::new(dir.join("journal"), 1);
    let (journal, _) = Journal::open(options, |lsn, entry| recovery.replay(lsn, &entry)).await?;
    let opened = begun.elapsed();
    let options = MetaOptions::new(NodeId(1), Vec::new());
    let meta = Meta::start(options, recovery, journal.clone(), Rc::new(|_| {})).await?;
    let started = begun.elapsed();
    for name in names {
        let topic = NewTopic {
            name: (*name).to_owned(),
            partitions: 3,
            replication_factor: 1,
            ..NewTopic::default()
        };
        meta.create_topics(vec![topic], false).await.remove(0).unwrap();
    }
    println!("journal {opened:?}, metadata {started:?}, topics {:?}", begun.elapsed());
    let image = MetaImage::clone(&meta.image());
    meta.stop().await;
    journal.close().await?;
    Ok(image)
}

fn process(dir: &Path, names: &'static [&'static str]) -> MetaImage {
    let (sender, receiver) = mpsc::channel();
    let dir = dir.to_owned();
    let options = Options { shards: 1, data_dirs: vec![dir.clone()], ..Options::default() };
    run(options, move |_: ShardContext<(), ()>| {
        let (dir, sender) = (dir.clone(), sender.clone());
        async move {
            sender.send(life(dir, names).await?).unwrap();
            Ok::<(), MetaError>(())
        }
    })
    .unwrap();
    receiver.recv().unwrap()
}

#[test]
fn a_restart_brings_back_topics_and_the_clusters_name() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let first = process(dir.path(), &["a", "b"]);
    let second = process(dir.path(), &["c"]);
    assert_eq!(first.cluster_id, second.cluster_id);
    assert_eq!(second.names.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(second.topic_named("a").unwrap().partitions[0].leader_epoch.0, 1);
    assert_eq!(second.topic_named("c").unwrap().partitions[0].leader_epoch.0, 0);
    assert_eq!(second.nodes[&NodeId(1)].incarnation, 2);
}
