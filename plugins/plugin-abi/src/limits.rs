//! Every limit between the daemon and a plugin's process.

use std::time::Duration;

/// One message in either direction. A request that is longer counts as one that could not be judged.
pub(crate) const FRAME_BYTES_MAX: usize = 4 << 20;
/// Texts of one request or answer.
pub(crate) const TEXTS_MAX: usize = 4096;
/// Functions of one plugin.
pub(crate) const TOOLS_MAX: usize = 16;
/// Name, description and schema of one function.
pub(crate) const SPEC_BYTES_MAX: usize = 64 << 10;
/// A function's result, and arguments.
pub(crate) const RESULT_BYTES_MAX: usize = 1 << 20;
/// A refusal's message, and any reason that is logged.
pub(crate) const REASON_BYTES_MAX: usize = 512;
/// One line of the log.
pub(crate) const LINE_BYTES_MAX: usize = 1024;
/// Lines of the log at once, and each second.
pub(crate) const LINES_BURST: u32 = 100;
pub(crate) const LINES_PER_SECOND: u32 = 20;
/// Keys of a plugin's store, and bytes of each.
pub(crate) const KEYS_MAX: usize = 64;
pub(crate) const KEY_BYTES_MAX: usize = 64;
pub(crate) const VALUE_BYTES_MAX: usize = 4096;
/// Plugins of one library.
pub(crate) const LIBRARY_PLUGINS_MAX: u32 = 64;
/// From the start of the process to its readiness.
pub(crate) const START_MAX: Duration = Duration::from_secs(10);
/// From the wish to its end.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(2);
/// Calls that wait for one plugin.
pub(crate) const WAITING_MAX: usize = 16;
/// Observations that wait, and those of one call.
pub(crate) const OBSERVATIONS_MAX: usize = 1024;
pub(crate) const OBSERVATIONS_CALL_MAX: usize = 64;
/// A library.
pub(crate) const LIBRARY_BYTES_MAX: u64 = 256 << 20;
/// A manifest, and a file of the state folder.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 64 << 10;
/// Folders that are looked at.
pub(crate) const FOLDERS_MAX: usize = 256;
/// A plugin's log file; there is one more of the same size before it.
pub(crate) const LOG_FILE_BYTES_MAX: u64 = 256 << 10;
/// Descriptors that a plugin may have open.
pub(crate) const DESCRIPTORS_MAX: u64 = 256;
