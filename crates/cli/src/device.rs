//! Devices by name.

use crate::Result;
use candle_core::{Device, DeviceLocation};

/// `cpu`, `cuda` or `cuda:N`; by default the first GPU of a program built for one.
///
/// # Errors
/// When there is no such device, or the program was built without it.
pub fn device(name: Option<&str>) -> Result<Device> {
    let name = name.unwrap_or(if candle_core::utils::cuda_is_available() { "cuda:0" } else { "cpu" });
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let number = if name == "cuda" { Some(0) } else { name.strip_prefix("cuda:").and_then(|n| n.parse().ok()) };
    let number = number.ok_or_else(|| format!("--device {name}: expected cpu, cuda or cuda:N"))?;
    candlelight_autograd::device::cuda(number).map_err(|e| format!("--device {e}").into())
}

/// The name of a device, as [`device`] accepts it.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Cpu => "cpu".into(),
        other => format!("{other:?}"),
    }
}
