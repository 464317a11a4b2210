//! What GPUs can compute at most.

/// The most floating-point operations per second that a device is rated for when it multiplies dense matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeakFlops {
    /// Of bfloat16 numbers, where it has tensor cores for them.
    pub bf16: Option<f64>,
    /// Of 16-bit floats: as of bfloat16 where there is both.
    pub f16: f64,
    /// Of 32-bit floats: burn multiplies them on tensor cores (as TF32) where there are any.
    pub f32: f64,
}

/// A part of a device's name, and TFLOP/s of 16-bit and of 32-bit floats: TF32 without sparsity where the device has it.
///
/// From NVIDIA's data sheets of H100, H200, A100, A30, A10, A40, L4, L40, L40S, V100, T4 and HGX B200, whose figures "with
/// sparsity" are halved. Longer names stand before those that they contain.
const PEAKS: [(&str, f64, f64); 17] = [
    ("B200", 2250.0, 1125.0),
    ("GH200", 989.4, 494.7),
    ("H200 NVL", 835.5, 417.5),
    ("H200", 989.4, 494.7),
    ("H100 NVL", 835.5, 417.5),
    ("H100 PCIe", 756.0, 378.0),
    ("H100", 989.4, 494.7),
    ("A100", 312.0, 156.0),
    ("A30", 165.0, 82.0),
    ("A40", 149.7, 74.8),
    ("A10", 125.0, 62.5),
    ("L40S", 362.0, 183.0),
    ("L40", 181.0, 90.5),
    ("L4", 121.0, 60.0),
    ("V100 PCIE", 112.0, 14.0),
    ("V100", 125.0, 15.7),
    ("T4", 65.0, 8.1),
];

/// Those whose 16-bit floats are not bfloat16.
const WITHOUT_BF16: [&str; 3] = ["V100 PCIE", "V100", "T4"];

/// The peak of a device of that name; `None` for a CPU and for devices that are not known.
pub fn peak_flops(device: &str) -> Option<PeakFlops> {
    let words: Vec<&str> = device.split([' ', '-']).collect();
    let is_named = |name: &str| {
        let parts: Vec<&str> = name.split(' ').collect();
        words.windows(parts.len()).any(|words| words == parts)
    };
    let (name, f16, f32) = PEAKS.into_iter().find(|(name, ..)| is_named(name))?;
    let (f16, f32) = (f16 * 1e12, f32 * 1e12);
    Some(PeakFlops { bf16: (!WITHOUT_BF16.contains(&name)).then_some(f16), f16, f32 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_its_drivers_name_for_it() {
        for (name, bf16, f16) in [
            ("NVIDIA H100 80GB HBM3", Some(989.4e12), 989.4e12),
            ("NVIDIA H100 PCIe", Some(756.0e12), 756.0e12),
            ("NVIDIA H100 NVL", Some(835.5e12), 835.5e12),
            ("NVIDIA H200", Some(989.4e12), 989.4e12),
            ("NVIDIA A100-SXM4-80GB", Some(312.0e12), 312.0e12),
            ("NVIDIA L40S", Some(362.0e12), 362.0e12),
            ("NVIDIA L4", Some(121.0e12), 121.0e12),
            ("NVIDIA A10", Some(125.0e12), 125.0e12),
            ("Tesla T4", None, 65.0e12),
            ("Tesla V100-SXM2-16GB", None, 125.0e12),
            ("Tesla V100-PCIE-16GB", None, 112.0e12),
        ] {
            let peak = peak_flops(name).unwrap();
            assert_eq!((peak.bf16, peak.f16), (bf16, f16), "{name}");
        }
        for name in ["Intel(R) Xeon(R) Platinum 8488C", "CPU", "NVIDIA GeForce RTX 4090", "AMD EPYC 7R13"] {
            assert_eq!(peak_flops(name), None, "{name}");
        }
    }
}
