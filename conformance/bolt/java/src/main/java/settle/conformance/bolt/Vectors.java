package settle.conformance.bolt;

import com.alipay.remoting.Connection;
import com.alipay.remoting.ProtocolCode;
import com.alipay.remoting.ResponseStatus;
import com.alipay.remoting.config.switches.ProtocolSwitch;
import com.alipay.remoting.rpc.HeartbeatAckCommand;
import com.alipay.remoting.rpc.HeartbeatCommand;
import com.alipay.remoting.rpc.RpcCommand;
import com.alipay.remoting.rpc.RpcCommandType;
import com.alipay.remoting.rpc.RequestCommand;
import com.alipay.remoting.rpc.ResponseCommand;
import com.alipay.remoting.rpc.protocol.RpcProtocol;
import com.alipay.remoting.rpc.protocol.RpcProtocolManager;
import com.alipay.remoting.rpc.protocol.RpcProtocolV2;
import com.alipay.remoting.rpc.protocol.RpcRequestCommand;
import com.alipay.remoting.rpc.protocol.RpcResponseCommand;
import com.alipay.remoting.codec.ProtocolCodeBasedEncoder;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.ByteBufUtil;
import io.netty.channel.embedded.EmbeddedChannel;

import java.nio.charset.StandardCharsets;

/** Prints frames as the jar's own encoders write them: what they say, then their bytes in hex, one frame a line. */
public final class Vectors {
    private static final int[] IDS = { 1, 7, Integer.MAX_VALUE, Integer.MIN_VALUE, -1, 0 };

    public static void main(String[] args) {
        RpcProtocolManager.initProtocols();
        for (int[] version : new int[][] { { 1, 1 }, { 2, 1 }, { 2, 2 } }) {
            for (int bits : version[0] == 1 ? new int[] { 0 } : new int[] { 0, 1, 0x7f }) {
                print(version, bits, "heartbeat", with(new HeartbeatCommand(), 7, bits));
                print(version, bits, "heartbeat-ack", with(new HeartbeatAckCommand(), 7, bits));
                for (int id : IDS) {
                    print(version, bits, "request", with(request(RpcCommandType.REQUEST, 3000, "c", "hd", "body"), id, bits));
                }
                print(version, bits, "request", with(request(RpcCommandType.REQUEST, -1, "com.x.Ü", "", ""), 2, bits));
                print(version, bits, "oneway", with(request(RpcCommandType.REQUEST_ONEWAY, -1, "c", "hd", "body"), 3, bits));
                for (ResponseStatus status : ResponseStatus.values()) {
                    print(version, bits, "response", with(response(status, "c", "hd", "body"), 4, bits));
                }
                print(version, bits, "response", with(response(ResponseStatus.SERVER_THREADPOOL_BUSY, "", "", ""), 5, bits));
            }
        }
    }

    private static RpcCommand with(RpcCommand command, int id, int bits) {
        command.setId(id);
        command.setProtocolSwitch(ProtocolSwitch.create(bits));
        return command;
    }

    private static RpcCommand request(byte type, int timeout, String clazz, String header, String content) {
        RpcRequestCommand command = new RpcRequestCommand();
        command.setType(type);
        command.setTimeout(timeout);
        return filled(command, clazz, header, content);
    }

    private static RpcCommand response(ResponseStatus status, String clazz, String header, String content) {
        RpcResponseCommand command = new RpcResponseCommand();
        command.setResponseStatus(status);
        return filled(command, clazz, header, content);
    }

    private static RpcCommand filled(RpcCommand command, String clazz, String header, String content) {
        command.setClazz(clazz.getBytes(StandardCharsets.UTF_8));
        command.setHeader(header.getBytes(StandardCharsets.UTF_8));
        command.setContent(content.getBytes(StandardCharsets.UTF_8));
        return command;
    }

    private static void print(int[] version, int bits, String kind, RpcCommand command) {
        EmbeddedChannel channel = new EmbeddedChannel(
            new ProtocolCodeBasedEncoder(ProtocolCode.fromBytes(RpcProtocolV2.PROTOCOL_CODE)));
        byte code = version[0] == 1 ? RpcProtocol.PROTOCOL_CODE : RpcProtocolV2.PROTOCOL_CODE;
        channel.attr(Connection.PROTOCOL).set(ProtocolCode.fromBytes(code));
        channel.attr(Connection.VERSION).set((byte) version[1]);
        channel.writeOutbound(command);
        ByteBuf bytes = channel.readOutbound();
        StringBuilder line = new StringBuilder();
        line.append("v").append(version[0]).append('.').append(version[1]);
        line.append(" switch=").append(bits).append(' ').append(kind).append(" id=").append(command.getId());
        line.append(" codec=").append(command.getSerializer());
        if (command instanceof RequestCommand) {
            line.append(" timeout=").append(((RequestCommand) command).getTimeout());
        } else {
            line.append(" status=").append(((ResponseCommand) command).getResponseStatus().getValue());
        }
        line.append(" class=").append(text(command.getClazz()));
        line.append(" header=").append(text(command.getHeader()));
        line.append(" content=").append(text(command.getContent()));
        System.out.println(line + " | " + ByteBufUtil.hexDump(bytes));
    }

    private static String text(byte[] bytes) {
        return bytes == null ? "" : new String(bytes, StandardCharsets.UTF_8);
    }
}
