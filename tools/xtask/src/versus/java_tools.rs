//! What Kafka's own performance tools print.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::results::Measure;

/// The last line of `ProducerPerformance`: `500000 records sent, 156103.6 records/sec (152.44
/// MB/sec), 170.31 ms avg latency, 371.00 ms max latency, 172 ms 50th, 316 ms 95th, 353 ms 99th, 368
/// ms 99.9th.`
pub(crate) fn read_producer(output: &str) -> Result<BTreeMap<Measure, f64>> {
    let line = output
        .lines()
        .rfind(|line| line.contains(" records sent, ") && line.contains("99.9th"))
        .context("ProducerPerformance printed no summary")?;
    let before = |marker: &str| -> Result<f64> {
        let (head, _) = line.split_once(marker).with_context(|| format!("no '{marker}' in {line:?}"))?;
        let number = head.rsplit([' ', '(', ',']).next().unwrap_or_default();
        number.parse().with_context(|| format!("'{marker}' in {line:?}"))
    };
    let mut values = BTreeMap::new();
    for (measure, marker) in [
        (Measure::RecordsPerS, " records/sec"),
        (Measure::MbPerS, " MB/sec"),
        (Measure::ToolMeanMs, " ms avg latency"),
        (Measure::ToolMaxMs, " ms max latency"),
        (Measure::ToolP50Ms, " ms 50th"),
        (Measure::ToolP95Ms, " ms 95th"),
        (Measure::ToolP99Ms, " ms 99th"),
        (Measure::ToolP999Ms, " ms 99.9th"),
    ] {
        values.insert(measure, before(marker)?);
    }
    // The tool's megabytes are of 1,048,576 bytes.
    values.entry(Measure::MbPerS).and_modify(|mb| *mb *= 1.048_576);
    Ok(values)
}

/// The last line of `ConsumerPerformance`: start, end, MB, MB/s, records, records/s, and more. Also
/// returns how many records it read.
pub(crate) fn read_consumer(output: &str) -> Result<(BTreeMap<Measure, f64>, f64)> {
    let line = output
        .lines()
        .rfind(|line| line.split(',').count() >= 10 && line.starts_with(|c: char| c.is_ascii_digit()))
        .context("ConsumerPerformance printed no summary")?;
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let number = |index: usize| -> Result<f64> {
        fields[index].parse().with_context(|| format!("field {} of {line:?}", index + 1))
    };
    let values =
        BTreeMap::from([(Measure::MbPerS, number(3)? * 1.048_576), (Measure::RecordsPerS, number(5)?)]);
    Ok((values, number(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_output_has_a_summary_or_none(
            producer in "[0-9]{0,9} records sent, [0-9.]{0,9} records/sec \\([0-9.]{0,6} MB/sec\\), .{0,9}99.9th.|.{0,40}",
            consumer in "[0-9]{0,9}(,[ 0-9.a-z]{0,9}){0,12}\n?|.{0,40}",
        ) {
            let _ = (read_producer(&producer).is_ok(), read_consumer(&consumer).is_ok());
        }
    }

    #[test]
    fn the_producers_summary_is_read() -> Result<()> {
        let output = "5000 records sent, 999.8 records/sec (0.98 MB/sec), 1.0 ms avg latency, 2.0 ms max latency.\n\
                      500000 records sent, 156103.6 records/sec (152.44 MB/sec), 170.31 ms avg latency, \
                      371.00 ms max latency, 172 ms 50th, 316 ms 95th, 353 ms 99th, 368 ms 99.9th.\n";
        let values = read_producer(output)?;
        assert_eq!(values[&Measure::RecordsPerS], 156_103.6);
        assert!((values[&Measure::MbPerS] - 159.845).abs() < 0.001);
        assert_eq!(values[&Measure::ToolMeanMs], 170.31);
        assert_eq!(values[&Measure::ToolMaxMs], 371.0);
        assert_eq!(values[&Measure::ToolP999Ms], 368.0);
        assert!(read_producer("Exception in thread main").is_err());
        Ok(())
    }

    #[test]
    fn the_consumers_summary_is_read() -> Result<()> {
        let output = "start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, x, y, z, w\n\
                      2026-11-21 14:00:00:123, 2026-11-21 14:00:03:456, 488.2812, 146.5, 500000, 150015.0, 400, \
                      2933, 166.5, 170473.9\n";
        let (values, records) = read_consumer(output)?;
        assert_eq!(records, 500_000.0);
        assert_eq!(values[&Measure::RecordsPerS], 150_015.0);
        assert!(read_consumer("WARN no group coordinator").is_err());
        Ok(())
    }
}
