//! Which core a measured node gets, and which its client.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::machine::device_numbers;

/// Two cores of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    pub(crate) node: usize,
    pub(crate) client: usize,
}

impl Cores {
    /// Of the first two the node has the one at which the disk of `folder` says that it is done.
    ///
    /// A disk with a queue for each core says so where it was asked. One with a single queue does at one core for
    /// all, and there a thread of the kernel ends each direct write, behind whoever keeps that core busy. What a
    /// client does there is not to be a part of what the node takes.
    pub(crate) fn of_disk(folder: &Path) -> Result<Self> {
        let node = interrupted_core(folder)?.filter(|core| *core < 2).unwrap_or(0);
        Ok(Self { node, client: 1 - node })
    }
}

/// The core that had most of the disk's interrupts; `None` where the kernel does not tell.
fn interrupted_core(folder: &Path) -> Result<Option<usize>> {
    let numbers = device_numbers(folder)?;
    // A partition's folder lies within its disk's, and that within the controller's.
    let Ok(disk) = fs::canonicalize(Path::new("/sys/dev/block").join(numbers)) else { return Ok(None) };
    let Some(list) = disk.ancestors().find_map(|folder| fs::read_dir(folder.join("msi_irqs")).ok()) else {
        return Ok(None);
    };
    let names: Vec<String> = list.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    Ok(busiest(&fs::read_to_string("/proc/interrupts")?, &names))
}

/// Which column of `/proc/interrupts` has most of the interrupts with these names.
fn busiest(interrupts: &str, names: &[String]) -> Option<usize> {
    let cores = interrupts.lines().next()?.split_whitespace().count();
    let mut counts = vec![0_u64; cores];
    for line in interrupts.lines().skip(1) {
        let Some((name, rest)) = line.split_once(':') else { continue };
        if names.iter().any(|wanted| wanted == name.trim()) {
            for (count, word) in counts.iter_mut().zip(rest.split_whitespace()) {
                *count += word.parse().unwrap_or(0);
            }
        }
    }
    let (core, most) = counts.into_iter().enumerate().max_by_key(|(_, count)| *count)?;
    (most > 0).then_some(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERRUPTS: &str = "           CPU0       CPU1\n 35:          7          0 PCI-MSIX 0-edge virtio1-config\n \
                              36:          2   46570735 PCI-MSIX 1-edge virtio1-req.0\n \
                              37:  99999999          0 PCI-MSIX 1-edge virtio2-input.0\nLOC:  1  2 timers\n";

    #[test]
    fn the_core_with_most_of_the_disks_interrupts_is_found() {
        let of = |names: &[&str]| {
            busiest(INTERRUPTS, &names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(of(&["35", "36"]), Some(1));
        assert_eq!(of(&["35"]), Some(0));
        assert_eq!(of(&["38"]), None);
        assert_eq!(busiest("", &[]), None);
    }

    #[test]
    fn node_and_client_have_a_core_each() {
        let cores = Cores::of_disk(Path::new(".")).expect("this folder is somewhere");
        assert_eq!(cores.node + cores.client, 1);
    }
}
