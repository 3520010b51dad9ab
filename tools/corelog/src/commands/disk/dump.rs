//! `corelog dump`: everything in a data directory or a part of it, with positions and verdicts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use bytes::Bytes;
use corelog_engine::journal::EntryKind;
use corelog_engine::journal::dump::{Detail, Item, read_dir, read_file};
use corelog_engine::journal::format::EntryHeader;
use corelog_engine::log::clean::Swaps;
use corelog_engine::log::verify::{Found, FoundSegment, SegmentScan, segments as list_segments};
use corelog_engine::partition::state::PartitionState;
use corelog_protocol::batch::{BatchHeader, BatchIter};
use serde_json::{Map, Value, json};

use super::{Kind, journal_dirs, kind_of, partition_dirs, segments};
use crate::cli::Dump;
use crate::client_run::{OnSignal, on_executor};
use crate::out::{Format, stdout};

pub(crate) fn run(arguments: Dump, format: Format) -> Result<ExitCode> {
    on_executor(OnSignal::Ends, move || dump(arguments.clone(), format))
}

async fn dump(arguments: Dump, format: Format) -> Result<ExitCode> {
    let detail = Detail { entries: !arguments.commits_only, stale: arguments.stale };
    let path = arguments.path.as_path();
    let mut printer = Printer { out: stdout(), format, outcome: Ok(()) };
    match kind_of(path).await? {
        Kind::DataDir => {
            for dir in journal_dirs(path).await? {
                printer.journal(&dir, detail).await?;
            }
            for dir in partition_dirs(path).await? {
                printer.partition(&dir, None).await?;
            }
        }
        Kind::JournalDir => printer.journal(path, detail).await?,
        Kind::JournalFile => {
            let failed = || format!("cannot read {}", path.display());
            read_file(path, detail, &mut |item| printer.item(item)).await.with_context(failed)?;
        }
        Kind::PartitionDir => printer.partition(path, None).await?,
        Kind::SegmentFile => {
            let dir = path.parent().filter(|it| !it.as_os_str().is_empty());
            printer.partition(dir.unwrap_or(Path::new(".")), Some(path)).await?;
        }
    }
    printer.finish()?;
    Ok(ExitCode::SUCCESS)
}

struct Printer<W: Write> {
    out: W,
    format: Format,
    /// The first failure to print: visitors cannot return it.
    outcome: std::io::Result<()>,
}

impl<W: Write> Printer<W> {
    fn finish(mut self) -> Result<()> {
        self.check()?;
        self.out.flush().context("cannot write to stdout")
    }

    fn check(&mut self) -> Result<()> {
        std::mem::replace(&mut self.outcome, Ok(())).context("cannot write to stdout")
    }

    /// One thing: as text the line, indented by its level; as JSON an object with a type.
    fn print(&mut self, level: usize, kind: &str, line: &str, mut fields: Value) {
        if self.outcome.is_err() {
            return;
        }
        self.outcome = match self.format {
            Format::Text => writeln!(self.out, "{:level$}{line}", "", level = level * 2),
            Format::Json => {
                let fields = fields.as_object_mut().map(std::mem::take).unwrap_or_default();
                let mut object = Map::new();
                object.insert("type".to_owned(), json!(kind));
                object.extend(fields);
                writeln!(self.out, "{}", Value::Object(object))
            }
        };
    }

    async fn journal(&mut self, dir: &Path, detail: Detail) -> Result<()> {
        let failed = || format!("cannot read the journal {}", dir.display());
        read_dir(dir, detail, |item| self.item(item)).await.with_context(failed)?;
        self.check()
    }

    fn item(&mut self, item: Item<'_>) {
        match item {
            Item::File { path, len_bytes, header } => {
                let path = path.display().to_string();
                let (line, fields) = match header {
                    Ok(it) => (
                        format!(
                            "file {path}  {len_bytes} bytes  journal {}  generation {}  run {:016x}  lsn \
                             from {}  live from generation {}",
                            it.journal_id, it.generation, it.run.run, it.lsn_floor, it.live_generation
                        ),
                        json!({
                            "path": path, "bytes": len_bytes, "journal_id": it.journal_id,
                            "generation": it.generation, "run": format!("{:016x}", it.run.run),
                            "lsn_floor": it.lsn_floor, "live_generation": it.live_generation,
                        }),
                    ),
                    Err(error) => (
                        format!("file {path}  {len_bytes} bytes  {error}"),
                        json!({ "path": path, "bytes": len_bytes, "error": error.to_string() }),
                    ),
                };
                self.print(0, "journal_file", &line, fields);
            }
            Item::Commit { header: it, stale, continues, body } => {
                let verdict = match (body, stale, continues) {
                    (Err(error), _, _) => format!("BAD: {error}"),
                    (Ok(()), true, _) => "stale".to_owned(),
                    (Ok(()), false, Some(false)) => "does not continue the one before".to_owned(),
                    (Ok(()), false, _) => "ok".to_owned(),
                };
                let closed = if it.closed { "  closes the journal" } else { "" };
                let line = format!(
                    "commit at {}  sequence {}  lsn {} + {}  {} bytes  synced below {}{closed}  {verdict}",
                    it.position_bytes, it.sequence, it.first_lsn, it.entries, it.body_bytes, it.known_synced
                );
                let fields = json!({
                    "position_bytes": it.position_bytes, "sequence": it.sequence,
                    "first_lsn": it.first_lsn, "entries": it.entries, "body_bytes": it.body_bytes,
                    "known_synced": it.known_synced, "closed": it.closed, "verdict": verdict,
                });
                self.print(1, "commit", &line, fields);
            }
            Item::Entry { position_bytes, header, payload, intact } => {
                self.entry(position_bytes, &header, payload, intact);
            }
            Item::BadEntry { error } => {
                let line = format!("BAD entry: {error}");
                self.print(2, "bad_entry", &line, json!({ "error": error.to_string() }));
            }
            Item::BadCommit { position_bytes, error } => {
                let line = format!("BAD commit at {position_bytes}: {error}");
                let fields = json!({ "position_bytes": position_bytes, "error": error.to_string() });
                self.print(1, "bad_commit", &line, fields);
            }
        }
    }

    fn entry(&mut self, position_bytes: u64, it: &EntryHeader, payload: &[u8], intact: bool) {
        let kind = kind_name(it.kind);
        let verdict = if intact { "ok" } else { "BAD: checksum" };
        let line = format!(
            "entry at {position_bytes}  lsn {}  {kind}  {}  offset {}  epoch {}  {} bytes  {verdict}",
            it.lsn, it.target, it.base_offset, it.leader_epoch, it.payload_bytes
        );
        let fields = json!({
            "position_bytes": position_bytes, "lsn": it.lsn, "kind": kind,
            "topic_id": it.target.topic.to_string(), "partition": it.target.partition,
            "base_offset": it.base_offset, "leader_epoch": it.leader_epoch,
            "payload_bytes": it.payload_bytes, "intact": intact,
        });
        self.print(2, "entry", &line, fields);
        if !intact {
            return;
        }
        match it.kind {
            EntryKind::Append => {
                for batch in BatchIter::new(payload).map_while(Result::ok) {
                    self.batch(3, None, &batch.header, "");
                }
            }
            EntryKind::Checkpoint => {
                let mut states = Bytes::copy_from_slice(payload);
                while !states.is_empty() && self.state(&mut states) {}
            }
            EntryKind::CarryForward => {
                let mut rest = Bytes::copy_from_slice(payload);
                if self.state(&mut rest) {
                    for batch in BatchIter::new(&rest).map_while(Result::ok) {
                        self.batch(3, None, &batch.header, "");
                    }
                }
            }
            EntryKind::TruncateTo
            | EntryKind::LogStart
            | EntryKind::DeletePartition
            | EntryKind::RaftVote
            | EntryKind::RaftEntry
            | EntryKind::RaftTruncate
            | EntryKind::RaftSnapshot
            | EntryKind::RaftPurge => {}
        }
    }

    /// Whether there was one that could be read.
    fn state(&mut self, bytes: &mut Bytes) -> bool {
        match PartitionState::decode(bytes) {
            Ok(it) => {
                let at = &it.position;
                let pending = it.swaps.pending.map(|it| (it.base, it.end));
                let line = format!(
                    "state {}  log {}..{}  high watermark {}  in segments below {} (segment {}, {} bytes)  \
                     cleaned to {}  {} producers{}{}",
                    it.target,
                    it.log_start,
                    it.log_end,
                    it.high_watermark,
                    at.next,
                    at.segment_base,
                    at.position_bytes,
                    it.cleaned_to,
                    it.producers.iter().len(),
                    pending.map(|(base, end)| format!("  replaces {base}..{end}")).unwrap_or_default(),
                    it.fault.as_ref().map(|it| format!("  FAULT: {it}")).unwrap_or_default()
                );
                let fields = json!({
                    "topic_id": it.target.topic.to_string(), "partition": it.target.partition,
                    "log_start": it.log_start, "log_end": it.log_end,
                    "high_watermark": it.high_watermark, "segment_base": at.segment_base,
                    "position_bytes": at.position_bytes, "batch_base": at.next,
                    "cleaned_to": it.cleaned_to, "generation": it.swaps.generation, "replaces": pending,
                    "producers": it.producers.iter().len(), "fault": it.fault,
                });
                self.print(3, "state", &line, fields);
                true
            }
            Err(error) => {
                let fields = json!({ "error": error.to_string() });
                self.print(3, "bad_state", &format!("BAD state: {error}"), fields);
                false
            }
        }
    }

    async fn partition(&mut self, dir: &Path, only: Option<&Path>) -> Result<()> {
        let failed = || format!("cannot read {}", dir.display());
        // A directory given alone may be relative; its name says the partition only in its place.
        let target = segments::target_of(&absolute(dir)?);
        let found = list_segments(dir, target, None, Swaps::default()).await.with_context(failed)?;
        let wanted = |it: &&FoundSegment| only.is_none_or(|only| it.path.file_name() == only.file_name());
        let mut count = 0;
        for segment in found.iter().filter(wanted) {
            self.segment(segment).await.with_context(failed)?;
            self.check()?;
            count += 1;
        }
        if let Some(only) = only.filter(|_| count == 0) {
            anyhow::bail!("{} does not exist", only.display());
        }
        Ok(())
    }

    async fn segment(&mut self, segment: &FoundSegment) -> Result<()> {
        let path = segment.path.display().to_string();
        let (line, fields) = match &segment.header {
            Ok(it) => (
                format!(
                    "segment {path}  {} bytes  {}  from offset {}  epoch {}{}",
                    segment.len,
                    it.target,
                    it.base_offset,
                    it.leader_epoch,
                    it.replaces
                        .map(|it| format!("  cleaned to {}, generation {}", it.end, it.generation))
                        .unwrap_or_default()
                ),
                json!({
                    "path": path, "bytes": segment.len, "topic_id": it.target.topic.to_string(),
                    "partition": it.target.partition, "base_offset": it.base_offset,
                    "leader_epoch": it.leader_epoch, "created_ms": it.created_ms,
                    "generation": it.replaces.map(|it| it.generation),
                }),
            ),
            Err(error) => (
                format!("segment {path}  {} bytes  BAD header: {error}", segment.len),
                json!({ "path": path, "bytes": segment.len, "error": error.to_string() }),
            ),
        };
        self.print(0, "segment", &line, fields);
        let mut scan = SegmentScan::open(segment).await?;
        while let Some(found) = scan.next().await? {
            match found {
                Found::Batch { position_bytes, header, problem } => {
                    let problem = problem.map(|it| it.to_string()).unwrap_or_default();
                    self.batch(1, Some(position_bytes), &header, &problem);
                }
                Found::Rest { position_bytes, bytes } => self.gap("rest", position_bytes, bytes, ""),
                Found::Tail { position_bytes, bytes, reason } => {
                    self.gap("tail", position_bytes, bytes, &reason.to_string());
                }
                Found::Damage { position_bytes, bytes, reason, .. } => {
                    self.gap("DAMAGE", position_bytes, bytes, &reason.to_string());
                }
            }
            if self.outcome.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn gap(&mut self, kind: &str, position_bytes: u64, bytes: u64, reason: &str) {
        let line = format!("{kind} at {position_bytes}  {bytes} bytes  {reason}");
        let fields = json!({ "position_bytes": position_bytes, "bytes": bytes, "reason": reason });
        self.print(1, &kind.to_lowercase(), line.trim_end(), fields);
    }

    fn batch(&mut self, level: usize, position_bytes: Option<u64>, it: &BatchHeader, problem: &str) {
        let place = position_bytes.map(|at| format!(" at {at}")).unwrap_or_default();
        let codec = it.codec().map_or("unknown codec", |codec| codec.name());
        let producer = match it.has_producer_id() {
            true => {
                format!("  producer {}/{} sequence {}", it.producer_id, it.producer_epoch, it.base_sequence)
            }
            false => String::new(),
        };
        let verdict = if problem.is_empty() { String::new() } else { format!("  BAD: {problem}") };
        let line = format!(
            "batch{place}  offsets {}..{}  {} records  {} bytes  {codec}  epoch {}  max time \
             {}{producer}{verdict}",
            it.base_offset,
            it.next_offset(),
            it.record_count,
            it.total_len(),
            it.leader_epoch,
            it.max_timestamp
        );
        let fields = json!({
            "position_bytes": position_bytes, "base_offset": it.base_offset,
            "next_offset": it.next_offset(), "records": it.record_count, "bytes": it.total_len(),
            "codec": codec, "leader_epoch": it.leader_epoch, "max_timestamp_ms": it.max_timestamp,
            "producer_id": it.producer_id, "producer_epoch": it.producer_epoch,
            "base_sequence": it.base_sequence, "transactional": it.is_transactional(),
            "control": it.is_control(),
            "problem": Some(problem).filter(|problem| !problem.is_empty()),
        });
        self.print(level, "batch", &line, fields);
    }
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).with_context(|| format!("{} is no usable path", dir.display()))
}

fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Append => "append",
        EntryKind::TruncateTo => "truncate-to",
        EntryKind::LogStart => "log-start",
        EntryKind::DeletePartition => "delete-partition",
        EntryKind::RaftVote => "raft-vote",
        EntryKind::RaftEntry => "raft-entry",
        EntryKind::RaftTruncate => "raft-truncate",
        EntryKind::Checkpoint => "checkpoint",
        EntryKind::CarryForward => "carry-forward",
        EntryKind::RaftSnapshot => "raft-snapshot",
        EntryKind::RaftPurge => "raft-purge",
    }
}
