//! Checking the segments of one partition.

use std::path::Path;

use anyhow::{Context, Result};
use corelog_engine::log::HEADER_BYTES;
use corelog_engine::log::verify::{Found, FoundSegment, SegmentScan, segments};
use corelog_engine::recovery::RecoveredPartition;
use corelog_engine::types::{PartitionId, TopicId, TopicPartition};

/// What was found in one partition's directory.
#[derive(Debug, Default)]
pub(super) struct PartitionReport {
    pub(super) segments: usize,
    pub(super) batches: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) notes: Vec<String>,
    pub(super) problems: Vec<String>,
}

/// Which partition a directory belongs to, by its path.
pub(super) fn target_of(dir: &Path) -> Option<TopicPartition> {
    let partition = dir.file_name()?.to_str()?.parse().ok()?;
    let topic = dir.parent()?.file_name()?.to_str()?.parse().ok()?;
    Some(TopicPartition::new(TopicId(topic), PartitionId(partition)))
}

/// Checks a partition's segments against what the journals say of it.
pub(super) async fn check(
    dir: &Path,
    target: TopicPartition,
    known: Option<&RecoveredPartition>,
) -> Result<PartitionReport> {
    let mut report = PartitionReport::default();
    // Segments that are still to be cut, and those of a faulty partition, are judged by themselves.
    let trusted = known.filter(|it| it.fault.is_none() && it.cut_segments_to.is_none());
    let at = trusted.map(|it| it.state.position);
    let failed = || format!("cannot read {}", dir.display());
    let swaps = trusted.map(|it| it.state.swaps).unwrap_or_default();
    let found = segments(dir, Some(target), at, swaps).await.with_context(failed)?;
    if let Some(known) = trusted {
        check_extent(dir, known, &found, &mut report);
    }
    for segment in &found {
        if segment.is_left_over {
            let path = segment.path.display();
            report
                .notes
                .push(format!("{path}: left over from an unfinished flush or compaction, does not count"));
            continue;
        }
        report.segments += 1;
        report.bytes += segment.len;
        check_segment(segment, &mut report).await.with_context(failed)?;
    }
    Ok(report)
}

/// Whether there are segments from the log's start up to what the checkpoint says is in them.
fn check_extent(
    dir: &Path,
    known: &RecoveredPartition,
    found: &[FoundSegment],
    report: &mut PartitionReport,
) {
    let position = &known.state.position;
    let first = found.iter().find(|it| !it.is_left_over).map(|it| it.base);
    let held = position.next > known.state.log_start;
    if held && first.is_none_or(|first| first > known.state.log_start) {
        let there = first.map_or("none".to_owned(), |first| format!("the first begins at {first}"));
        report.problems.push(format!(
            "{}: segments from offset {} on are missing ({there})",
            dir.display(),
            known.state.log_start
        ));
    }
    let active = found.iter().find(|it| it.base == position.segment_base);
    if position.position_bytes > HEADER_BYTES && active.is_none_or(|it| it.len < position.position_bytes) {
        report.problems.push(format!(
            "{}: the segment that begins at {} is missing or shorter than the {} bytes that were \
             synced of it",
            dir.display(),
            position.segment_base,
            position.position_bytes
        ));
    }
}

async fn check_segment(segment: &FoundSegment, report: &mut PartitionReport) -> Result<()> {
    let path = segment.path.display();
    if let Err(error) = &segment.header {
        report.problems.push(format!("{path}: the segment's header: {error}"));
    }
    let mut scan = SegmentScan::open(segment).await?;
    while let Some(found) = scan.next().await? {
        match found {
            Found::Batch { header, problem: None, .. } => {
                report.batches += 1;
                report.records += u64::from(header.record_count.unsigned_abs());
            }
            Found::Batch { position_bytes, header, problem: Some(reason) } => {
                let offset = header.base_offset;
                report.problems.push(format!("{path}:{position_bytes}: batch at offset {offset}: {reason}"));
            }
            Found::Damage { position_bytes, offset, reason, .. } => {
                report.problems.push(format!("{path}:{position_bytes}: at offset {offset}: {reason}"))
            }
            Found::Tail { position_bytes, bytes, reason } => report.notes.push(format!(
                "{path}:{position_bytes}: {bytes} bytes behind the last whole batch ({reason})"
            )),
            Found::Rest { .. } => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_by_its_path() {
        let id = "28a0c115-fd85-4abb-b091-f03031289349";
        let target = target_of(Path::new(&format!("d/topics/{id}/7"))).unwrap();
        assert_eq!((target.topic.to_string().as_str(), target.partition.0), (id, 7));
        assert_eq!(target_of(Path::new("d/topics/x/7")), None);
        assert_eq!(target_of(Path::new("7")), None);
    }
}
