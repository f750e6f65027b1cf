/* The weight file inside of the program, in a section that is only read: the system maps it from the program's own file,
 * and a microcontroller has it in flash. It is used where it lies.
 *
 * The assembler copies it, since every compiler that knows the vectors of kernels/simd.h (clang, gcc, zig) knows .incbin;
 * the same as a C array is five times as much text, which takes minutes and gigabytes to compile.
 *
 * MODEL_FILE is looked for from where the compiler runs. MODEL_SECTION is a section of the linker's script.
 */
#include "model.h"

#ifndef MODEL_FILE
#define MODEL_FILE "MODEL_NAME.weights"
#endif
#if defined(__APPLE__)
#define PLACE ".section __TEXT,__const"
#define HIDDEN ".private_extern "
#elif defined(_WIN32)
#define PLACE ".section .rdata,\"dr\""
#define HIDDEN ".globl "
#else
#ifndef MODEL_SECTION
#define MODEL_SECTION ".rodata"
#endif
#define PLACE ".section " MODEL_SECTION ",\"a\",%progbits"
#define HIDDEN ".hidden "
#endif

#if SIZE_MAX > UINT32_MAX
#define NUMBER ".quad"
#else
#define NUMBER ".long"
#endif

#define TEXT(name) TEXT_OF(name)
#define TEXT_OF(name) #name
#define LABEL(name) TEXT(__USER_LABEL_PREFIX__) name
#define GLOBAL(name) "    .globl " LABEL(name) "\n    " HIDDEN LABEL(name) "\n" LABEL(name) ":\n"

__asm__(
    "    " PLACE "\n"
    "    .balign 64\n"
    GLOBAL("minitx_linked_file")
    "77: .incbin \"" MODEL_FILE "\"\n"
    "78: .balign 8\n"
    GLOBAL("minitx_linked_bytes")
    "    " NUMBER " 78b - 77b\n"
    "    .text\n");

#if defined(__ELF__)
#define OWN __attribute__((visibility("hidden")))
#else
#define OWN
#endif
extern const uint8_t minitx_linked_file[] OWN;
extern const size_t minitx_linked_bytes OWN;

const void *minitx_embedded(size_t *bytes) {
    *bytes = minitx_linked_bytes;
    return minitx_linked_file;
}
