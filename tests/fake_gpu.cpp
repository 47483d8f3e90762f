// What autograd and torch.cuda ask of a GPU, answered by one that does nothing: a build of PyTorch without CUDA
// lacks these. tests/fake_gpu.py compiles this file and calls install().
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

static const Device gpu(DeviceType::CUDA, 0);
static const Stream stream(Stream::DEFAULT, gpu);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return gpu; }
  Device getDevice() const override { return gpu; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Stream getStream(Device) const override { return stream; }
  Stream getNewStream(Device, int) const override { return stream; }
  Stream exchangeStream(Stream) const override { return stream; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
};

struct Hooks final : at::CUDAHooksInterface {
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
};

extern "C" void install() {
  if (!c10::impl::hasDeviceGuardImpl(DeviceType::CUDA))
    c10::impl::registerDeviceGuard(DeviceType::CUDA, new Guard());
  // All of PyTorch shares one object of hooks. It cannot be replaced, but its table of virtual functions can.
  const at::CUDAHooksInterface& hooks = at::detail::getCUDAHooks();
  if (!hooks.isBuilt())
    *(void**)const_cast<at::CUDAHooksInterface*>(&hooks) = *(void**)new Hooks();
}
