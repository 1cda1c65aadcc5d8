//! What most formats have in common: contents in clusters, each at some place in the file, compressed, or nowhere.

use crate::images::{Extent, ImageError, ReadAt, Source, streams::Streams};

/// Where a cluster's contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// Nowhere: it reads as zeros.
    Zero,
    /// At this offset of the file, as they are.
    At(u64),
    /// Compressed, in this stretch of the file.
    Compressed {
        /// Offset in the file.
        offset: u64,
        /// Bytes at most; the stream may end earlier.
        length: u64,
        /// How.
        codec: Codec,
    },
}

/// How a cluster is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// RFC 1951, without a header.
    Deflate,
    /// RFC 1950: the same with a header and a checksum.
    Zlib,
    /// RFC 8878.
    Zstd,
}

/// A format's table.
pub(crate) trait Map {
    /// Bytes of one cluster.
    fn cluster_size(&self) -> u64;
    /// Bytes that a guest sees.
    fn size(&self) -> u64;
    /// Where the cluster with this index is. Asked in ascending order.
    ///
    /// # Errors
    /// [`ImageError`], for a table that contradicts itself.
    fn locate(&mut self, file: &dyn ReadAt, index: u64) -> Result<Cluster, ImageError>;
    /// How many clusters from this one on no table lists, so that they read as zeros and need not be asked for one by
    /// one: a disk of 64 TiB with nothing in it is walked in a moment.
    fn unlisted(&self, _index: u64) -> u64 {
        0
    }
}

/// An image in clusters.
pub(crate) struct Clustered<R, M> {
    file: R,
    map: M,
    located: Option<(u64, Cluster)>,
    unpacked: Option<(u64, Vec<u8>)>,
    used: u64,
    streams: Streams,
}

impl<R: ReadAt, M: Map> Clustered<R, M> {
    /// Puts a file and its table together.
    pub(crate) fn new(file: R, map: M) -> Self {
        Self { file, map, located: None, unpacked: None, used: 0, streams: Streams::default() }
    }

    fn locate(&mut self, index: u64) -> Result<Cluster, ImageError> {
        if let Some((known, cluster)) = self.located
            && known == index
        {
            return Ok(cluster);
        }
        let cluster = self.map.locate(&self.file, index)?;
        // What a stream really takes is known, and counted, when it is unpacked: QEMU packs them byte by byte and says in whole sectors how long
        // they are, so that those of short streams together are many times the file.
        let (start, length) = match cluster {
            Cluster::Zero => (None, 0),
            Cluster::At(offset) => (Some(offset), self.map.cluster_size()),
            Cluster::Compressed { offset, .. } => (Some(offset), 0),
        };
        if start.is_some_and(|start| start >= self.file.len()) {
            return Err(ImageError::Damaged { what: "a cluster lies beyond the end of the file" });
        }
        // A file cannot hold more than its own length, unless parts of it are used again and again.
        self.used = self.used.saturating_add(length);
        if self.used > self.file.len().saturating_mul(2).saturating_add(self.map.cluster_size()) {
            return Err(ImageError::Overlap);
        }
        self.located = Some((index, cluster));
        Ok(cluster)
    }

    fn read_one(&mut self, index: u64, within: usize, into: &mut [u8]) -> Result<(), ImageError> {
        match self.locate(index)? {
            Cluster::Zero => into.fill(0),
            Cluster::At(offset) => {
                let from = offset.saturating_add(u64::try_from(within).unwrap_or(u64::MAX));
                // The last cluster of a file may be cut where only zeros follow.
                let present = usize::try_from(self.file.len().saturating_sub(from)).unwrap_or(usize::MAX);
                let (data, rest) = into.split_at_mut(present.min(into.len()));
                self.file.read_at(from, data)?;
                rest.fill(0);
            }
            Cluster::Compressed { offset, length, codec } => {
                if self.unpacked.as_ref().is_none_or(|(known, _)| *known != index) {
                    let size = self.map.cluster_size();
                    self.streams.admit(offset, size)?;
                    // The disk may end within its last cluster, and the stream with it.
                    let least = size.min(self.map.size().saturating_sub(index.saturating_mul(size)));
                    let [size, least] = [size, least].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
                    let present = length.min(self.file.len().saturating_sub(offset));
                    let mut packed = vec![0; usize::try_from(present).unwrap_or(0)];
                    self.file.read_at(offset, &mut packed)?;
                    let (whole, taken) = unpack(codec, &packed, size, least)?;
                    self.streams.used(offset, u64::try_from(taken).unwrap_or(u64::MAX))?;
                    self.unpacked = Some((index, whole));
                }
                let whole = self.unpacked.as_ref().map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
                let part = whole.get(within..within + into.len());
                into.copy_from_slice(
                    part.ok_or(ImageError::Damaged { what: "a compressed cluster is too short" })?,
                );
            }
        }
        Ok(())
    }
}

impl<R: ReadAt, M: Map> Source for Clustered<R, M> {
    fn size(&self) -> u64 {
        self.map.size()
    }

    fn extent(&mut self, offset: u64) -> Result<Extent, ImageError> {
        let size = self.map.cluster_size();
        let unlisted = self.map.unlisted(offset / size);
        if unlisted > 0 {
            let until = (offset / size).saturating_add(unlisted).saturating_mul(size).min(self.map.size());
            return Ok(Extent { zero: true, length: until.saturating_sub(offset).max(1) });
        }
        let zero = self.locate(offset / size)? == Cluster::Zero;
        let until = (offset / size + 1).saturating_mul(size).min(self.map.size());
        Ok(Extent { zero, length: until.saturating_sub(offset).max(1) })
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ImageError> {
        let size = self.map.cluster_size();
        let within =
            usize::try_from(offset % size).map_err(|_| ImageError::Damaged { what: "its cluster size" })?;
        self.read_one(offset / size, within, into)
    }
}

/// Unpacks one cluster into exactly `size` bytes, of which the stream must give `least`: never more memory, whatever the
/// stream says. Says as well how much of `packed` the stream took.
fn unpack(codec: Codec, packed: &[u8], size: usize, least: usize) -> Result<(Vec<u8>, usize), ImageError> {
    use miniz_oxide::inflate::{
        TINFLStatus,
        core::{DecompressorOxide, decompress, inflate_flags as flags},
    };
    const BAD: ImageError = ImageError::Damaged { what: "a compressed cluster cannot be unpacked" };
    let mut out = vec![0; size];
    let taken = match codec {
        Codec::Deflate => {
            // The stream may end before the sector does; what counts is that the cluster is full.
            let mut state = DecompressorOxide::new();
            let how = flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
            let (_, taken, written) = decompress(&mut state, packed, &mut out, 0, how);
            if written != size {
                return Err(BAD);
            }
            taken
        }
        Codec::Zlib => {
            let mut state = DecompressorOxide::new();
            let how = flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | flags::TINFL_FLAG_PARSE_ZLIB_HEADER;
            // Done also says that the checksum is right.
            let (status, taken, written) = decompress(&mut state, packed, &mut out, 0, how);
            if status != TINFLStatus::Done || written < least {
                return Err(BAD);
            }
            taken
        }
        Codec::Zstd => {
            let mut rest = packed;
            let mut stream = ruzstd::decoding::StreamingDecoder::new(&mut rest).map_err(|_| BAD)?;
            std::io::Read::read_exact(&mut stream, &mut out).map_err(|_| BAD)?;
            drop(stream);
            packed.len() - rest.len()
        }
    };
    Ok((out, taken))
}
