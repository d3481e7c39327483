/* A libcuda on which everything succeeds and nothing runs: Triton's own driver, binder and launcher work on it, so that
   the host's time of a launch can be measured without a GPU. Only what Triton calls is here. */
#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef void *handle;

static long launches;
long stub_launches(void) { return launches; }

CUresult cuInit(unsigned flags) { return 0; }
CUresult cuGetErrorString(CUresult code, const char **text) { *text = "stub"; return 0; }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return 0; }

CUresult cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
CUresult cuDeviceGetCount(int *count) { *count = 1; return 0; }
/* an H100's shared memory: the one attribute that decides anything here */
CUresult cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 232448; return 0; }
CUresult cuDevicePrimaryCtxRetain(handle *context, int device) { *context = (handle)64; return 0; }
CUresult cuCtxGetCurrent(handle *context) { *context = (handle)64; return 0; }
CUresult cuCtxSetCurrent(handle context) { return 0; }
CUresult cuCtxGetDevice(int *device) { *device = 0; return 0; }
CUresult cuCtxGetLimit(size_t *value, int limit) { *value = 0; return 0; }
CUresult cuCtxSetLimit(int limit, size_t value) { return 0; }
CUresult cuStreamGetCtx(handle stream, handle *context) { *context = (handle)64; return 0; }

CUresult cuMemAlloc_v2(handle *pointer, size_t bytes) { *pointer = (handle)256; return 0; }
CUresult cuMemsetD8Async(handle pointer, unsigned char value, size_t bytes, handle stream) { return 0; }
/* memory of the CPU passes for the device's */
CUresult cuPointerGetAttribute(void *data, int attribute, unsigned long long pointer)
{
    *(unsigned long long *)data = pointer;
    return 0;
}

CUresult cuModuleLoadData(handle *module, const void *image) { *module = (handle)16; return 0; }
CUresult cuModuleUnload(handle module) { return 0; }
CUresult cuModuleGetFunction(handle *function, handle module, const char *name) { *function = (handle)32; return 0; }
/* attribute 0: threads a block may have */
CUresult cuFuncGetAttribute(int *value, int attribute, handle function) { *value = attribute ? 0 : 1024; return 0; }
CUresult cuFuncSetAttribute(handle function, int attribute, int value) { return 0; }
CUresult cuFuncSetCacheConfig(handle function, int config) { return 0; }
CUresult cuOccupancyMaxActiveClusters(int *clusters, handle function, const void *config) { *clusters = 1; return 0; }
CUresult cuTensorMapEncodeTiled(void) { return 0; }

CUresult cuLaunchKernelEx(const void *config, handle function, handle *parameters, handle *extra)
{
    launches++;
    return 0;
}
CUresult cuLaunchKernel(handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, handle stream, handle *parameters,
                        handle *extra)
{
    launches++;
    return 0;
}
