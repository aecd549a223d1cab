//! Results that are too large for the control log itself, kept beside it by their hash.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::ready;
use std::rc::Rc;

use sha2::{Digest as _, Sha256};
use shardgate_replicate::control_log::LocalBoxFuture;

/// Names a blob by what is in it.
pub(crate) type BlobHash = [u8; 32];

/// Why a blob is not to be had, or not to be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BlobError {
    /// The store is full.
    #[error(
        "the results kept on this node have {kept} bytes, and with {more} more there would be \
         more than {max}: wait until some tasks have expired"
    )]
    Full {
        /// Bytes that are kept.
        kept: usize,
        /// Bytes to be kept as well.
        more: usize,
        /// The limit.
        max: usize,
    },
    /// Nobody has it.
    #[error("the result's {0} bytes are not on this node any more")]
    Missing(u64),
}

/// Where large results are kept: content-addressed, so that the same result is kept once.
pub(crate) trait BlobStore {
    /// Keeps these bytes until they are dropped as often as they were put.
    fn put(&self, bytes: Box<[u8]>) -> LocalBoxFuture<'_, Result<BlobHash, BlobError>>;

    /// The bytes with this hash and length.
    fn fetch(&self, hash: BlobHash, len: u64) -> LocalBoxFuture<'_, Result<Rc<[u8]>, BlobError>>;

    /// One task less needs them.
    fn release(&self, hash: BlobHash);
}

/// Bytes of all blobs in memory together.
pub(crate) const MEMORY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Blobs in the memory of one process, for a node without a cluster.
#[derive(Debug, Default)]
pub(crate) struct MemoryBlobs {
    kept: RefCell<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    blobs: HashMap<BlobHash, (Rc<[u8]>, usize)>,
    bytes: usize,
}

impl BlobStore for MemoryBlobs {
    fn put(&self, bytes: Box<[u8]>) -> LocalBoxFuture<'_, Result<BlobHash, BlobError>> {
        let hash: BlobHash = Sha256::digest(&bytes).into();
        let mut kept = self.kept.borrow_mut();
        let full = kept.bytes + bytes.len() > MEMORY_BYTES_MAX;
        let outcome = match kept.blobs.get_mut(&hash) {
            Some((_, users)) => {
                *users += 1;
                Ok(hash)
            }
            None if full => {
                let (kept, more) = (kept.bytes, bytes.len());
                Err(BlobError::Full { kept, more, max: MEMORY_BYTES_MAX })
            }
            None => {
                kept.bytes += bytes.len();
                kept.blobs.insert(hash, (bytes.into(), 1));
                Ok(hash)
            }
        };
        Box::pin(ready(outcome))
    }

    fn fetch(&self, hash: BlobHash, len: u64) -> LocalBoxFuture<'_, Result<Rc<[u8]>, BlobError>> {
        let found = self.kept.borrow().blobs.get(&hash).map(|(bytes, _)| Rc::clone(bytes));
        Box::pin(ready(found.ok_or(BlobError::Missing(len))))
    }

    fn release(&self, hash: BlobHash) {
        let mut kept = self.kept.borrow_mut();
        let Some((bytes, users)) = kept.blobs.get_mut(&hash) else { return };
        *users -= 1;
        if *users == 0 {
            let bytes = bytes.len();
            kept.bytes -= bytes;
            kept.blobs.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_two_tasks_came_to_is_kept_until_both_are_gone() {
        let blobs = MemoryBlobs::default();
        let hash = blobs.put(b"abc".as_slice().into()).await.expect("room");
        assert_eq!(blobs.put(b"abc".as_slice().into()).await, Ok(hash));
        blobs.release(hash);
        assert_eq!(blobs.fetch(hash, 3).await.as_deref(), Ok(b"abc".as_slice()));
        blobs.release(hash);
        assert_eq!(blobs.fetch(hash, 3).await, Err(BlobError::Missing(3)));
        blobs.release(hash);
        assert_eq!(blobs.kept.borrow().bytes, 0);
    }

    #[tokio::test]
    async fn a_full_store_refuses_and_says_so() {
        let blobs = MemoryBlobs::default();
        blobs.kept.borrow_mut().bytes = MEMORY_BYTES_MAX;
        let refused = blobs.put(b"abc".as_slice().into()).await.expect_err("no room");
        assert!(refused.to_string().contains("wait until"), "{refused}");
    }
}
