/* native.h: shim.h for the C sources behind it. */
#ifndef OCIRUNTIME_NATIVE_H
#define OCIRUNTIME_NATIVE_H

#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "shim.h"

#endif
