//! One number for memory, `cache_bytes`, and who gets which share of it.
//!
//! The budget is for everything that reading and writing files leave in memory: buffers, mapped windows, clean and dirty
//! pages of the page cache. What the program itself takes (code, runtime, connections, the index's hot pages) comes on
//! top and is bounded elsewhere. A limit that the system sets (a cgroup's) lowers the budget. Nothing is measured here;
//! [`crate::store::Store::memory`] does that.

use std::path::Path;

/// The least budget, in bytes.
pub const BUDGET_BYTES_MIN: u64 = 16 << 20;

/// Shares of a budget, in bytes. Together they are no more than the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// All of it.
    pub bytes: u64,
    /// Windows over served files: mapped pages, or page cache that positioned reads brought in.
    pub windows: u64,
    /// One of these windows: a power of two.
    pub window: u64,
    /// Written and not durable yet, dirty pages that is, with what is asked for and still to be written.
    pub unsynced: u64,
    /// Blocks that are asked for and not yet written, of all pulls together.
    pub in_flight: u64,
    /// Blocks that are read and not yet sent, to all peers together.
    pub serving: u64,
    /// Buffers that lie idle.
    pub idle: u64,
}

impl Budget {
    /// Divides a budget. Sizes that more memory would not make faster have a most.
    #[must_use]
    pub fn of(bytes: u64) -> Self {
        let bytes = bytes.max(BUDGET_BYTES_MIN);
        let windows = bytes / 4;
        let window = (windows / 8).clamp(256 << 10, 8 << 20);
        Self {
            bytes,
            windows,
            window: 1 << window.ilog2(),
            unsynced: bytes * 3 / 8,
            in_flight: (bytes / 4).min(32 << 20),
            serving: (bytes / 8).min(32 << 20),
            idle: (bytes / 16).min(12 << 20),
        }
    }

    /// The budget of a process that may use `limit` bytes in all, where that is known: five eighths of it, since the
    /// program, its connections and the index's pages need the rest, 24 of 64 MiB for example.
    #[must_use]
    pub fn within(bytes: u64, limit: Option<u64>) -> Self {
        Self::of(limit.map_or(bytes, |limit| bytes.min(limit / 8 * 5)))
    }
}

/// The memory that the system allows this process, in bytes, if less than everything: the least limit of its cgroup and
/// those above it. `root` is `/` except in tests.
#[must_use]
pub fn system_limit(root: &Path) -> Option<u64> {
    let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        // cgroups(7): hierarchy-ID:controller-list:path
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (mount, name) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            list if list.split(',').any(|one| one == "memory") => ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        // In a container the path may be the host's, and the mount the container's own group: a folder that is not there
        // is passed over, and the mount itself looked at last.
        let path = Path::new(path.trim_start_matches('/'));
        path.ancestors().filter_map(|group| limit_of(&root.join(mount).join(group).join(name))).min()
    });
    limits.min()
}

/// What a limit's file says; `None` when it is missing or sets none: "max" in version 2, a number near 2⁶³ in version 1.
fn limit_of(file: &Path) -> Option<u64> {
    let bytes = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    (bytes < 1 << 60).then_some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

    use std::fs;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shares_fit_into_the_budget(bytes in 0_u64..1 << 42) {
            let budget = Budget::of(bytes);
            prop_assert!(budget.bytes >= bytes && budget.bytes >= BUDGET_BYTES_MIN);
            let shares = budget.windows + budget.unsynced + budget.in_flight + budget.serving;
            prop_assert!(shares <= budget.bytes, "{budget:?}");
            prop_assert!(budget.window.is_power_of_two() && budget.window <= budget.windows);
            // The largest block fits everywhere.
            prop_assert!(budget.serving.min(budget.in_flight).min(budget.unsynced) >= 2 << 20);
        }
    }

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_limit_above_the_process_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(system_limit(root), None);
        put(root, "proc/self/cgroup", "5:cpu,memory:/a/b\n3:devices:/x\n0::/\n");
        assert_eq!(system_limit(root), None);
        put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        put(root, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "134217728\n");
        assert_eq!(system_limit(root), Some(128 << 20));
        put(root, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "67108864\n");
        assert_eq!(system_limit(root), Some(64 << 20));

        put(root, "proc/self/cgroup", "0::/user.slice/one\n");
        assert_eq!(system_limit(root), None);
        put(root, "sys/fs/cgroup/user.slice/one/memory.max", "max\n");
        assert_eq!(system_limit(root), None);
        put(root, "sys/fs/cgroup/user.slice/memory.max", "1048576000\n");
        assert_eq!(system_limit(root), Some(1_048_576_000));
        // A container sees the host's path, and its own group as the mount.
        put(root, "proc/self/cgroup", "0::/docker/0123\n");
        put(root, "sys/fs/cgroup/memory.max", "268435456\n");
        assert_eq!(system_limit(root), Some(256 << 20));
        assert_eq!(Budget::within(1 << 30, system_limit(root)).bytes, 160 << 20);
        assert_eq!(Budget::within(64 << 20, system_limit(root)).bytes, 64 << 20);
    }
}
