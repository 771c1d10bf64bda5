//! What layers change in those below them, for `layerinit check --conflicts`.

use super::node::Node;

/// The number of changes that are kept. The rest is counted.
const CHANGES_MAX: usize = 2000;

/// The changes of layers to those below them, in order.
#[derive(Debug, Default)]
pub struct Changes {
    pub(crate) list: Vec<(Vec<u8>, Change)>,
    /// The number of changes that are not kept.
    pub(crate) dropped: usize,
}

/// A change to a lower layer.
#[derive(Debug)]
pub enum Change {
    /// A file replaces another.
    Replaced {
        /// The file of the lower layer.
        old: Box<Node>,
        /// The file that replaces it.
        new: Box<Node>,
        /// The number of files below the old one, which are lost.
        below: usize,
    },
    /// A whiteout of this layer hides nothing.
    UselessWhiteout(usize),
}

impl Changes {
    /// Records that a file replaces another.
    pub fn replaced(&mut self, path: &[u8], old: &Node, new: &Node, below: usize) {
        let both = |mode: u32| old.mode & libc::S_IFMT == mode && new.mode & libc::S_IFMT == mode;
        if old.layer != new.layer && !both(libc::S_IFDIR) {
            let (old, new) = (Box::new(old.clone()), Box::new(new.clone()));
            self.add(path, Change::Replaced { old, new, below });
        }
    }

    /// Records a whiteout that hides nothing.
    pub fn useless_whiteout(&mut self, path: &[u8], layer: usize) {
        self.add(path, Change::UselessWhiteout(layer));
    }

    fn add(&mut self, path: &[u8], change: Change) {
        match self.list.len() < CHANGES_MAX {
            true => self.list.push((path.to_vec(), change)),
            false => self.dropped = self.dropped.saturating_add(1),
        }
    }
}
