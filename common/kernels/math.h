/* SPDX-License-Identifier: Apache-2.0
 *
 * Elementary functions with the same bits on every machine: fixed sequences of fused and IEEE
 * operations, no libm. The float functions are what SIMD tiers must reproduce lane by lane.
 * Pure, any thread.
 */
#ifndef SHOAL_KERNELS_MATH_H
#define SHOAL_KERNELS_MATH_H

/* e^x in binary32, at most 2 ulp; 0 below about -103.97 with gradual underflow allowed to flush
 * to 0 below -87.3, +inf from the first x whose e^x is not finite (above 88.7228317), NaN for NaN.
 */
float shoal_expf(float x);
/* Natural logarithm in binary32, at most 2 ulp, for normal x > 0 (Gumbel noise, confidences);
 * -inf at 0. */
float shoal_logf(float x);
/* Hyperbolic tangent in binary32, at most 2 ulp. */
float shoal_tanhf(float x);
/* gelu in the tanh form, as kernels.h states it; negative tails keep their relative accuracy. */
float shoal_geluf(float x);
#define SHOAL_GELU_LINEAR 0x1.988454p-1F /* sqrt(2 / pi) */
#define SHOAL_GELU_CUBIC  0x1.2444f2p-5F /* 0.044715 * sqrt(2 / pi) */
/* Double precision, at most 1e-15 relative (absolute for sin and cos, |x| <= 2^31): for tables. */
double shoal_expd(double x);
double shoal_logd(double x);
void shoal_sincosd(double x, double *ret_sin, double *ret_cos);

#endif
