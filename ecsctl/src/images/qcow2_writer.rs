//! Writing qcow2, version 3: data first, tables after it, the header last, so that a file that was cut short is none.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt};

use crate::images::qcow2::MAGIC;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of one second-level table.
const L2_ENTRIES: u64 = CLUSTER / 8;
/// 16-bit counts of one reference count block.
const COUNTS: u64 = CLUSTER / 2;
/// The only user of a cluster: no copy on write.
const COPIED: u64 = 1 << 63;

/// A qcow2 file that is being written. Offsets are given in ascending order.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    size: u64,
    next: u64,
    tables: BTreeMap<u64, Vec<u64>>,
}

impl Writer {
    /// Begins a disk of `size` bytes in an empty file. The first cluster stays free for the header.
    pub(crate) fn new(file: File, size: u64) -> Self {
        Self { file, size, next: CLUSTER, tables: BTreeMap::new() }
    }

    /// Writes data at an offset of the disk that is a multiple of the cluster.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if !offset.is_multiple_of(CLUSTER) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (index, cluster) in (offset / CLUSTER..).zip(data.chunks(1 << CLUSTER_BITS)) {
            if cluster.iter().all(|byte| *byte == 0) {
                continue;
            }
            self.file.write_all_at(cluster, self.next)?;
            let table =
                self.tables.entry(index / L2_ENTRIES).or_insert_with(|| vec![0; 1 << (CLUSTER_BITS - 3)]);
            if let Some(entry) = usize::try_from(index % L2_ENTRIES).ok().and_then(|slot| table.get_mut(slot))
            {
                *entry = self.next | COPIED;
            }
            self.next += CLUSTER;
        }
        Ok(())
    }

    /// Writes the tables and the header, and makes all of it durable.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let l1_entries = self.size.div_ceil(CLUSTER * L2_ENTRIES);
        let mut l1 = vec![0; usize::try_from(l1_entries).unwrap_or(0)];
        for (slot, table) in std::mem::take(&mut self.tables) {
            if let Some(entry) = usize::try_from(slot).ok().and_then(|slot| l1.get_mut(slot)) {
                *entry = self.next | COPIED;
            }
            self.append(&table)?;
        }
        let l1_offset = self.next;
        self.append(&l1)?;
        // The reference counts count themselves: blocks for every cluster, and the table that lists the blocks.
        let others = self.next / CLUSTER;
        let (mut blocks, mut table) = (0, 0);
        while blocks * COUNTS < others + blocks + table {
            blocks = (others + blocks + table).div_ceil(COUNTS);
            table = (blocks * 8).div_ceil(CLUSTER);
        }
        let refcount_offset = self.next;
        let first_block = refcount_offset + table * CLUSTER;
        let list: Vec<u64> = (0..blocks).map(|n| first_block + n * CLUSTER).collect();
        self.append(&list)?;
        let used = others + blocks + table;
        for block in 0..blocks {
            let counts: Vec<u8> = (block * COUNTS..(block + 1) * COUNTS)
                .flat_map(|n| u16::from(n < used).to_be_bytes())
                .collect();
            self.file.write_all_at(&counts, first_block + block * CLUSTER)?;
        }
        self.file.sync_data()?;
        let table_clusters = u32::try_from(table).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let l1_entries = u32::try_from(l1_entries).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.file.write_all_at(&self.header(l1_entries, l1_offset, refcount_offset, table_clusters), 0)?;
        self.file.sync_all()
    }

    fn append(&mut self, table: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.file.write_all_at(&bytes, self.next)?;
        self.next += u64::try_from(bytes.len()).unwrap_or(u64::MAX).next_multiple_of(CLUSTER);
        // A table may be shorter than its cluster; the file is not.
        self.file.set_len(self.next)
    }

    fn header(&self, l1_entries: u32, l1: u64, refcounts: u64, refcount_clusters: u32) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(3_u32.to_be_bytes());
        out.extend([0; 12]); // no backing file
        out.extend(CLUSTER_BITS.to_be_bytes());
        out.extend(self.size.to_be_bytes());
        out.extend([0; 4]); // not encrypted
        out.extend(l1_entries.to_be_bytes());
        out.extend(l1.to_be_bytes());
        out.extend(refcounts.to_be_bytes());
        out.extend(refcount_clusters.to_be_bytes());
        out.extend([0; 12]); // no snapshots
        out.extend([0; 24]); // no features
        out.extend(4_u32.to_be_bytes()); // 16-bit reference counts
        out.extend(104_u32.to_be_bytes()); // header length
        out.extend([0; 8]); // end of extensions
        out
    }
}
