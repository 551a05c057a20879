// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// Each 32-bit word is widened to 64 bits, so that no carry is lost, and added to
// one of four registers of four lanes: at most 2^32 * n/4/8 in a lane. 128 bytes
// at a time, the rest 32 at a time.

// Y0 to Y3 are the sums, Y15 is zero.
#define BEGIN \
	VPXOR Y0, Y0, Y0    \
	VPXOR Y1, Y1, Y1    \
	VPXOR Y2, Y2, Y2    \
	VPXOR Y3, Y3, Y3    \
	VPXOR Y15, Y15, Y15

#define LOAD128 \
	VMOVDQU (SI), Y4   \
	VMOVDQU 32(SI), Y5 \
	VMOVDQU 64(SI), Y6 \
	VMOVDQU 96(SI), Y7

#define ADD128 \
	VPUNPCKLDQ Y15, Y4, Y8  \
	VPUNPCKHDQ Y15, Y4, Y9  \
	VPUNPCKLDQ Y15, Y5, Y10 \
	VPUNPCKHDQ Y15, Y5, Y11 \
	VPADDQ     Y8, Y0, Y0   \
	VPADDQ     Y9, Y1, Y1   \
	VPADDQ     Y10, Y2, Y2  \
	VPADDQ     Y11, Y3, Y3  \
	VPUNPCKLDQ Y15, Y6, Y8  \
	VPUNPCKHDQ Y15, Y6, Y9  \
	VPUNPCKLDQ Y15, Y7, Y10 \
	VPUNPCKHDQ Y15, Y7, Y11 \
	VPADDQ     Y8, Y0, Y0   \
	VPADDQ     Y9, Y1, Y1   \
	VPADDQ     Y10, Y2, Y2  \
	VPADDQ     Y11, Y3, Y3

#define ADD32 \
	VPUNPCKLDQ Y15, Y4, Y8 \
	VPUNPCKHDQ Y15, Y4, Y9 \
	VPADDQ     Y8, Y0, Y0  \
	VPADDQ     Y9, Y1, Y1

// END leaves the sum of all lanes in the low half of X0.
#define END \
	VPADDQ       Y1, Y0, Y0 \
	VPADDQ       Y3, Y2, Y2 \
	VPADDQ       Y2, Y0, Y0 \
	VEXTRACTI128 $1, Y0, X1 \
	VPADDQ       X1, X0, X0 \
	VPSRLDQ      $8, X0, X1 \
	VPADDQ       X1, X0, X0

// func sumAVX2(b *byte, n int) uint64
TEXT ·sumAVX2(SB), NOSPLIT|NOFRAME, $0-24
	MOVQ b+0(FP), SI
	MOVQ n+8(FP), CX
	BEGIN

loop:
	LOAD128
	ADD128
	ADDQ $128, SI
	SUBQ $128, CX
	CMPQ CX, $128
	JAE  loop

	TESTQ CX, CX
	JZ    done

tail:
	VMOVDQU (SI), Y4
	ADD32
	ADDQ    $32, SI
	SUBQ    $32, CX
	JA      tail

done:
	END
	VMOVQ      X0, ret+16(FP)
	VZEROUPPER
	RET

// func copySumAVX2(dst, src *byte, n int) uint64
TEXT ·copySumAVX2(SB), NOSPLIT|NOFRAME, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	BEGIN

loop:
	LOAD128
	VMOVDQU Y4, (DI)
	VMOVDQU Y5, 32(DI)
	VMOVDQU Y6, 64(DI)
	VMOVDQU Y7, 96(DI)
	ADD128
	ADDQ    $128, SI
	ADDQ    $128, DI
	SUBQ    $128, CX
	CMPQ    CX, $128
	JAE     loop

	TESTQ CX, CX
	JZ    done

tail:
	VMOVDQU (SI), Y4
	VMOVDQU Y4, (DI)
	ADD32
	ADDQ    $32, SI
	ADDQ    $32, DI
	SUBQ    $32, CX
	JA      tail

done:
	END
	VMOVQ      X0, ret+24(FP)
	VZEROUPPER
	RET
