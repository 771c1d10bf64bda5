//! The files of a loader that turn verification on (docs/trust.md). Every `/init` knows them: one that is built without
//! the feature `verify` refuses such a loader.

/// The list of layers.
pub const LIST: &str = "/etc/layerinit/layers.sha256";

/// The name of the list, also beside the layers on a disk.
pub const LIST_NAME: &str = "layers.sha256";

/// The name of its signature there.
pub const SIGNATURE_NAME: &str = "layers.sha256.minisig";

/// The path of the signature of a list on a disk, which is beside it.
pub fn signature_beside(list: &str) -> String {
    format!("{list}.minisig")
}

/// The policy for words of the command line.
pub const POLICY: &str = "/etc/layerinit/policy";

/// The directory of the public keys.
pub const KEYS: &str = "/etc/layerinit/keys";

/// All of them.
pub const ALL: [&str; 3] = [LIST, POLICY, KEYS];
