//! What a model is computed on.

use std::sync::{LazyLock, Mutex};

use burn::tensor::{Device, ExecutionError, FloatDType};
use stoker_crds::{Reason, progress::DeviceInfo, training::Resources};

use crate::machine::Memory;

/// burn's CPU backend has one random generator for the whole process, and a training seeds it at every step: two at the
/// same time would draw each other's dropout.
pub(crate) static GENERATOR: Mutex<()> = Mutex::new(());

/// Why the wanted device is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A GPU is wanted by a trainer that cannot use one.
    #[error(
        "resources.gpus asks for a GPU, and this trainer is built for CPUs only: use the trainer image with CUDA \
         (chart value trainer.gpuImage), or set resources.gpus to 0"
    )]
    BuiltWithoutCuda,
    /// A GPU is wanted and the pod sees none.
    #[error(
        "resources.gpus asks for a GPU, and the CUDA driver shows none to this pod: check that the node has a GPU, \
         that its device plugin and driver work (nvidia-smi), or set resources.gpus to 0"
    )]
    NoneSeen,
    /// A GPU is wanted and wgpu finds none.
    #[error(
        "resources.gpus asks for a GPU, and no driver shows one to this trainer, which is built for wgpu: install the \
         GPU's Vulkan driver (Debian's mesa-vulkan-drivers computes on the CPU where there is none; vulkaninfo lists what \
         is found), or set resources.gpus to 0"
    )]
    NoVulkan,
    /// The GPU that the pod sees does not work.
    #[error(
        "resources.gpus asks for a GPU, and the one that the driver shows to this pod cannot be opened (the log says \
         why): check that it is healthy and that nothing else holds it (nvidia-smi), or set resources.gpus to 0"
    )]
    Unusable,
}

impl DeviceError {
    /// The reason that is reported.
    pub fn reason(&self) -> Reason {
        Reason::DeviceNotFound
    }
}

/// The device for what the spec asks for: the CPU for 0 GPUs, else the first CUDA device, or the first of wgpu in a binary
/// that is built with that and without CUDA.
///
/// # Errors
/// If a GPU is asked for and there is none, it does not work, or this binary is built for CPUs only.
pub fn choose_device(resources: &Resources) -> Result<Device, DeviceError> {
    if resources.gpus == 0 { Ok(Device::flex()) } else { first_gpu() }
}

#[cfg(feature = "gpu")]
fn first_gpu() -> Result<Device, DeviceError> {
    use burn::tensor::DeviceType;

    #[cfg(feature = "cuda")]
    let (api, none) = (DeviceType::Cuda, DeviceError::NoneSeen);
    #[cfg(not(feature = "cuda"))]
    let (api, none) = (DeviceType::Wgpu, DeviceError::NoVulkan);
    // `Device::cuda` and `Device::wgpu` are lazy, and where there is none they end a worker thread at their first use; the
    // list asks the driver.
    let device = Device::enumerate(api).into_vec().into_iter().next().ok_or(none)?;
    opened(|| device.identity())?;
    Ok(device)
}

/// Opens a device, which is a panic where the driver refuses. The panic's own message is left to the log: it alone has
/// the driver's words, and comes from a thread of the backend.
#[cfg(any(test, feature = "gpu"))]
fn opened<T>(open: impl FnOnce() -> T) -> Result<T, DeviceError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).map_err(|_| DeviceError::Unusable)
}

#[cfg(not(feature = "gpu"))]
fn first_gpu() -> Result<Device, DeviceError> {
    Err(DeviceError::BuiltWithoutCuda)
}

/// The device's name, how much of its memory is in use, and how busy it is.
pub fn device_info(device: &Device) -> DeviceInfo {
    let memory_bytes = device.memory_pool_usage().map(|usage| usage.bytes_reserved);
    let name = gpu_name(device).unwrap_or_else(|| CPU_NAME.clone());
    DeviceInfo { name, memory_bytes, total_memory_bytes: gpu_memory(), utilization: utilization() }
}

/// Whether a device is a GPU.
pub fn is_gpu(device: &Device) -> bool {
    gpu_name(device).is_some()
}

/// The memory that a training may fill, in bytes: that of the GPU, or of the container or machine where the CPU computes;
/// `None` where nobody says how much there is.
pub fn total_memory(device: &Device) -> Option<u64> {
    if is_gpu(device) { gpu_memory() } else { Memory::read().total() }
}

/// Whether a device computes with bf16 itself. On CUDA burn has GPUs without it do so too, in 32 bits and slowly.
pub(super) fn is_made_for_bf16(device: &Device) -> bool {
    device.supports_dtype(FloatDType::BF16) && gpu_fingerprint(device).is_none_or(|fingerprint| has_bf16(&fingerprint))
}

/// Whether a GPU may have bf16, by what burn compiles for: `ptx_sm` and the compute capability of a CUDA device, which has it
/// from 8.0 (Ampere) on.
fn has_bf16(fingerprint: &str) -> bool {
    let capability = fingerprint.strip_prefix("ptx_sm").and_then(|capability| capability.parse::<u32>().ok());
    capability.is_none_or(|capability| capability >= 80)
}

#[cfg(feature = "gpu")]
fn gpu_name(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name.to_string())
}

#[cfg(not(feature = "gpu"))]
fn gpu_name(_: &Device) -> Option<String> {
    None
}

#[cfg(feature = "gpu")]
fn gpu_fingerprint(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.fingerprint)
}

#[cfg(not(feature = "gpu"))]
fn gpu_fingerprint(_: &Device) -> Option<String> {
    None
}

/// The pod's GPU, as NVIDIA's management library sees it.
#[cfg(feature = "cuda")]
fn managed_gpu() -> Option<nvml_wrapper::Device<'static>> {
    static LIBRARY: LazyLock<Option<nvml_wrapper::Nvml>> = LazyLock::new(|| nvml_wrapper::Nvml::init().ok());
    LIBRARY.as_ref()?.device_by_index(0).ok()
}

/// The share of the last moment in which the pod's GPU computed.
#[cfg(feature = "cuda")]
fn utilization() -> Option<f64> {
    let rates = managed_gpu()?.utilization_rates().ok()?;
    Some(f64::from(rates.gpu) / 100.0)
}

#[cfg(not(feature = "cuda"))]
fn utilization() -> Option<f64> {
    None
}

/// The memory of the pod's GPU, in bytes.
#[cfg(feature = "cuda")]
fn gpu_memory() -> Option<u64> {
    Some(managed_gpu()?.memory_info().ok()?.total)
}

#[cfg(not(feature = "cuda"))]
fn gpu_memory() -> Option<u64> {
    None
}

static CPU_NAME: LazyLock<String> = LazyLock::new(|| {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
    model.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_else(|| "CPU".into())
});

/// The reason that a failure of the device is reported as.
pub(crate) fn execution_reason(error: &ExecutionError) -> Reason {
    if says_out_of_memory(&format!("{error:?}")) { Reason::OutOfDeviceMemory } else { Reason::Internal }
}

/// Whether what a device, its driver or burn says means that its memory is full.
pub(crate) fn says_out_of_memory(text: &str) -> bool {
    const WORDS: [&str; 7] = [
        "out of memory",
        "out-of-memory",
        "out_of_memory",
        "outofmemory",
        "out of device memory",
        "can't allocate buffer of size",
        "every page size the memory tracks",
    ];
    let text = text.to_lowercase();
    WORDS.iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_without_gpus_computes_on_the_cpu_and_knows_its_name() {
        let device = choose_device(&Resources::default()).unwrap();
        assert_eq!(device, Device::flex());
        assert!(!device_info(&device).name.is_empty());
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_an_error_that_says_what_to_do() {
        let error = opened::<()>(|| panic!("a panic that is meant to be")).unwrap_err();
        assert!(error.to_string().contains("nvidia-smi") && error.reason() == Reason::DeviceNotFound, "{error}");
    }

    /// A V100, a T4, an A100, an L4, a B200, and AMD's and Intel's under Vulkan, of which burn itself knows.
    #[test]
    fn nvidias_gpus_have_bf16_since_ampere() {
        assert!(["ptx_sm70", "ptx_sm75"].into_iter().all(|fingerprint| !has_bf16(fingerprint)));
        let newer = ["ptx_sm80", "ptx_sm89", "ptx_sm100", "spirv_4098_29772", "spirv_32902_70"];
        assert!(newer.into_iter().all(has_bf16));
    }

    /// As cubecl 0.11 and the CUDA driver say it.
    #[test]
    fn a_device_whose_memory_is_full_is_told_from_one_that_fails() {
        let reason = |reason: &str| execution_reason(&ExecutionError::WithContext { reason: reason.into() });
        for full in [
            "out of device memory allocating 4096 bytes",
            "can't allocate buffer of size: 4096",
            "Can't allocate 4096 bytes: every page size the memory tracks still holds live allocations",
            "An out-of-memory error happened during launch",
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
        ] {
            assert_eq!(reason(full), Reason::OutOfDeviceMemory, "{full}");
        }
        assert_eq!(reason("an illegal memory access was encountered"), Reason::Internal);
    }

    #[test]
    #[cfg(not(feature = "gpu"))]
    fn a_gpu_is_refused_by_a_build_without_cuda() {
        let resources = Resources { gpus: 1, ..Resources::default() };
        assert_eq!(choose_device(&resources), Err(DeviceError::BuiltWithoutCuda));
    }

    #[cfg(feature = "gpu")]
    mod gpu {
        use std::process::Command;

        use super::*;

        fn one() -> Resources {
            Resources { gpus: 1, ..Resources::default() }
        }

        #[test]
        fn a_spec_with_a_gpu_computes_on_it_and_knows_its_name() {
            let device = choose_device(&one()).unwrap();
            let (gpu, cpu) = (device_info(&device), device_info(&Device::flex()));
            assert_ne!(device, Device::flex());
            assert!(!gpu.name.is_empty() && gpu.name != cpu.name, "{}", gpu.name);
        }

        /// Set where the drivers are hidden.
        const HIDDEN: &str = "STOKER_TEST_HIDDEN_DRIVERS";

        /// Drivers are looked for where the environment says, which no test may change for the others: so this one runs again in
        /// a process of its own.
        #[test]
        fn a_gpu_is_refused_where_no_driver_shows_one() {
            if std::env::var_os(HIDDEN).is_none() {
                let mut again = Command::new(std::env::current_exe().unwrap());
                again
                    .arg("a_gpu_is_refused_where_no_driver_shows_one")
                    .env(HIDDEN, "yes")
                    .env("CUDA_VISIBLE_DEVICES", "");
                for drivers in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "__EGL_VENDOR_LIBRARY_FILENAMES"] {
                    again.env(drivers, "/nonexistent");
                }
                let said = String::from_utf8(again.output().unwrap().stdout).unwrap();
                assert!(said.contains("1 passed"), "{said}");
                return;
            }
            let error = choose_device(&one()).unwrap_err();
            assert!(matches!(error, DeviceError::NoneSeen | DeviceError::NoVulkan), "{error}");
            assert_eq!(error.reason(), Reason::DeviceNotFound);
        }
    }
}
