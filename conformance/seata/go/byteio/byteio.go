// Package byteio is as much of a library that seata-go names as seata-go uses. The library itself is not on every proxy.
package byteio

import (
	"encoding/binary"
	"io"
)

// BigEndianReader reads numbers.
type BigEndianReader struct {
	io.Reader
}

// ReadInt16 reads two bytes; also gives how many were read.
func (r *BigEndianReader) ReadInt16() (int16, int, error) {
	var bytes [2]byte
	read, err := io.ReadFull(r, bytes[:])
	return int16(binary.BigEndian.Uint16(bytes[:])), read, err
}
