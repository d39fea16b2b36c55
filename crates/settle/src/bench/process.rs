//! CPU time and memory of the measured servers, from `/proc`.

use anyhow::Context;

#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    /// User and system time since the process started.
    pub cpu_micros: u64,
    pub resident_bytes: u64,
}

/// The sum over `pids`.
///
/// # Errors
/// When a process is gone.
pub fn usage(pids: &[u32]) -> anyhow::Result<Usage> {
    let mut total = Usage::default();
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} cannot be measured"))?;
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15, rss is field 24.
        let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let fields: Vec<u64> = after_name
            .split_whitespace()
            .skip(1)
            .map(|f| f.parse().unwrap_or(0))
            .collect();
        let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0);
        // Linux reports in units of 1/100 s and pages of 4 KiB to user space.
        total.cpu_micros += (field(14) + field(15)) * 10_000;
        total.resident_bytes += field(24) * 4096;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_a_gone_one_is_named() {
        assert!(usage(&[std::process::id()]).expect("this process").resident_bytes > 100_000);
        let error = usage(&[u32::MAX]).expect_err("no such process");
        assert!(error.to_string().contains(&u32::MAX.to_string()));
    }
}
